"""GradDrop and gradient dropout: coordinates of gradients left out at random."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from maxgnr_jax import _stacked
from maxgnr_jax._checks import check_fraction, check_range
from maxgnr_jax._linalg import num_active, remember, uniform_weights, zero_inactive
from maxgnr_jax.aggregators._base import (
  Choice,
  Memory,
  Method,
  Shared,
  Step,
  aggregator,
)
from maxgnr_jax.aggregators._random import key_memory, next_key


def graddrop(
  leak: jax.typing.ArrayLike = 0.0,
  *,
  num_tasks: int | None = None,
  shared: Shared = None,
  key: int | jax.Array = 0,
) -> optax.GradientTransformationExtraArgs:
  """The sum of the gradients, of one sign in every coordinate.

  Each coordinate keeps either its positive or its negative values. The more of it is
  positive, the likelier are the positive ones: with probability
  ``½ (1 + Σ g / Σ |g|)``.

  Args:
    leak: The share of a task's dropped values that passes nonetheless, in [0, 1]; a
      number, or one per task [K].
    num_tasks: K, at least 1. By default it is taken from the first gradients, which
      changes the shapes of the state at the first step.
    shared: Selects the trunk, where the rule applies: a pytree of bools like the
      parameters (or a prefix of it), or a function from the parameters to one. Other
      parameters get the sum of the gradients.
      Default: all parameters.
    key: An integer or a PRNG key, from which the choices are drawn.

  Returns:
    An :class:`optax.GradientTransformationExtraArgs` with :class:`AggregatorState`, whose
    memory holds the ``key`` of the next step. The update is no weighted sum
    of the gradients: ``weights`` is None.

  Raises:
    ValueError: for a ``leak`` outside [0, 1], or not of one number per task.

  Example:
    >>> import jax.numpy as jnp
    >>> from maxgnr_jax.aggregators import graddrop
    >>> tx = graddrop()
    >>> grads = jnp.array([[1.0, 3.0], [2.0, -3.0]])
    >>> updates, _ = tx.update(grads, tx.init(jnp.zeros(2)))
    >>> [abs(update) for update in updates.tolist()]
    [3.0, 3.0]

  References:
    Chen et al., Just Pick a Sign: Optimizing Deep Multitask Models with Gradient Sign
    Dropout, NeurIPS 2020, Algorithm 1, lines 10 to 15, on the parameters' gradients.
    The authors' code applies it to activations', times the sign of the activation.
  """
  if not isinstance(leak, jax.core.Tracer):
    for value in np.ravel(leak).tolist():
      check_range("leak", value, "in [0, 1]", lambda x: 0 <= x <= 1)

  def measure(step: Step, memory: Memory) -> tuple[Any, None]:
    del memory
    if jnp.shape(leak) not in ((), (step.num_tasks,)):
      raise ValueError(
        f"`leak` must be a number or one per task, [{step.num_tasks}], got shape "
        f"{jnp.shape(leak)}."
      )
    return step, None

  def choose(step: Step, active: jax.Array, memory: Memory) -> Choice:
    after, now = next_key(memory, key)

    def leaf(grads, key):
      total, size = _stacked.add(grads), _stacked.add(jnp.abs(grads))
      purity = 0.5 * (1.0 + total / jnp.where(size > 0, size, 1.0))
      positive = purity > jax.random.uniform(key, size.shape, size.dtype)
      kept = jnp.where(positive[None], grads > 0, grads < 0)
      passed = jnp.broadcast_to(jnp.asarray(leak, grads.dtype), grads.shape[:1])
      passed = passed.reshape(-1, *(1,) * size.ndim)
      # What is dropped counts 0 times, so that NaN and infinity show in the sum.
      return _stacked.add(grads * jnp.where(kept, 1.0, passed))

    return Choice(
      memory=remember(active, {"key": after}, memory),
      combined=_stacked.apply(leaf, zero_inactive(active, step.grads), now),
      head_weights=active.astype(step.dtype),
    )

  method = Method(measure, choose, key_memory(key), weighted=False)
  return aggregator(method, num_tasks=num_tasks, shared=shared)


def gradient_dropout(
  rate: jax.typing.ArrayLike = 0.1,
  noise: str = "gaussian",
  *,
  num_tasks: int | None = None,
  shared: Shared = None,
  key: int | jax.Array = 0,
) -> optax.GradientTransformationExtraArgs:
  """The mean of the gradients, each coordinate of each times a random number of mean 1.

  Args:
    rate: p, in [0, 1): how likely a coordinate is dropped. The authors recommend 0.1 to
      0.2.
    noise: "gaussian", of variance ``p / (1 - p)``, or "bernoulli", which is 0 with
      probability p and ``1 / (1 - p)`` otherwise.
    num_tasks: K, at least 1. By default it is taken from the first gradients, which
      changes the shapes of the state at the first step.
    shared: Selects the trunk, where the rule applies: a pytree of bools like the
      parameters (or a prefix of it), or a function from the parameters to one. Other
      parameters get the mean of the gradients.
      Default: all parameters.
    key: An integer or a PRNG key, from which the noise is drawn.

  Returns:
    An :class:`optax.GradientTransformationExtraArgs` with :class:`AggregatorState`, whose
    memory holds the ``key`` of the next step. The update is a weighted sum of
    the gradients in expectation only: ``weights`` is None.

  Raises:
    ValueError: for a ``rate`` outside [0, 1) or another ``noise``.

  Example:
    >>> import jax.numpy as jnp
    >>> from maxgnr_jax.aggregators import gradient_dropout
    >>> tx = gradient_dropout(0.5, "bernoulli")
    >>> grads = jnp.full((2, 1000), 3.0)
    >>> updates, _ = tx.update(grads, tx.init(jnp.zeros(1000)))
    >>> sorted(set(updates.tolist()))
    [0.0, 3.0, 6.0]

  References:
    Tseng et al., Regularizing Meta-Learning via Gradient Dropout, ACCV 2020: there in
    the inner loop of meta-learning, here on every task's gradient.
  """
  check_fraction("rate", rate)
  if noise not in ("gaussian", "bernoulli"):
    raise ValueError(f'`noise` must be "gaussian" or "bernoulli", got {noise!r}.')

  def measure(step: Step, memory: Memory) -> tuple[Any, None]:
    del memory
    return step, None

  def choose(step: Step, active: jax.Array, memory: Memory) -> Choice:
    after, now = next_key(memory, key)
    number = num_active(active, step.dtype)

    def leaf(grads, key):
      p = jnp.asarray(rate, grads.dtype)
      if noise == "gaussian":
        drawn = jax.random.normal(key, grads.shape, grads.dtype)
        factor = 1.0 + jnp.sqrt(p / (1.0 - p)) * drawn
      else:
        kept = jax.random.uniform(key, grads.shape, grads.dtype) >= p
        factor = kept.astype(grads.dtype) / (1.0 - p)
      return _stacked.add(factor * grads) / number.astype(grads.dtype)

    return Choice(
      memory=remember(active, {"key": after}, memory),
      combined=_stacked.apply(leaf, zero_inactive(active, step.grads), now),
      head_weights=uniform_weights(active, step.dtype),
    )

  method = Method(measure, choose, key_memory(key), weighted=False)
  return aggregator(method, num_tasks=num_tasks, shared=shared)
