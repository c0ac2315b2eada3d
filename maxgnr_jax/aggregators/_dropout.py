"""GradDrop and gradient dropout, which drop coordinates of gradients at random."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from maxgnr_jax import _stacked
from maxgnr_jax._checks import check_fraction, check_range
from maxgnr_jax._linalg import (
  num_active,
  remember,
  square_root,
  uniform_weights,
  zero_inactive,
)
from maxgnr_jax._task_names import check_has_no_names
from maxgnr_jax.aggregators._base import (
  Choice,
  Memory,
  Method,
  Shared,
  Step,
  aggregator,
)
from maxgnr_jax.aggregators._random import key_memory, next_key
from maxgnr_jax.aggregators._reuse import reuses_steps


@reuses_steps
def graddrop(
  leak: jax.typing.ArrayLike = 0.0,
  *,
  num_tasks: int | None = None,
  shared: Shared = None,
  key: int | jax.Array = 0,
  unshared: str = "weighted",
) -> optax.GradientTransformationExtraArgs:
  """Sums the gradients, keeping only values of one sign in every coordinate.

  In each coordinate the sign is drawn at random: the positive values of the tasks are
  kept with probability ``½ (1 + Σ g / Σ |g|)``, else the negative ones.

  Args:
    leak: Fraction of a task's dropped values that is added nonetheless, in [0, 1]: a
      number, or one per task, [K]. With 0, the default, dropped values do not count;
      with 1 the update is the sum of the gradients.
    num_tasks: K, at least 1. By default it is taken from the first gradients, which
      changes the shapes of the state at the first step.
    shared: Selects the trunk, where the rule applies: a pytree of bools like the
      parameters (or a prefix of it), or a function from the parameters to one. The
      other parameters get the sum of the gradients. Default: all parameters.
    key: An integer or a PRNG key, from which the signs are drawn.
    unshared: "weighted" or "own", the gradients of parameters outside of ``shared``, as
      in :func:`~maxgnr_jax.maxgnr`.

  Returns:
    An :class:`optax.GradientTransformationExtraArgs` with :class:`AggregatorState`,
    whose memory holds the numbers of the next step's ``key``. The update is not a
    weighted sum of the gradients, so ``weights`` is None.

  Raises:
    ValueError: for ``leak`` outside [0, 1] or ``num_tasks`` < 1; at the trace of
      ``update``, for gradients that are not stacked or of another number of tasks, and
      for a ``leak`` that is neither a number nor one per task.
    TypeError: for integer or complex parameters or gradients.

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
    Dropout, NeurIPS 2020, Algorithm 1, lines 10 to 15, applied to the gradients of the
    parameters. The authors' code applies it to the gradients of activations, times the
    sign of the activation.
  """
  check_has_no_names("leak", leak)
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
      leaked = jnp.broadcast_to(jnp.asarray(leak, grads.dtype), grads.shape[:1])
      leaked = leaked.reshape(-1, *(1,) * size.ndim)
      # Dropped values are multiplied by 0, not replaced by it, so that NaN and infinity
      # show in the sum and their tasks are found.
      return _stacked.add(grads * jnp.where(kept, 1.0, leaked))

    return Choice(
      memory=remember(active, {"key": after}, memory),
      combined=_stacked.apply(leaf, zero_inactive(active, step.grads), now),
      head_weights=active.astype(step.dtype),
    )

  method = Method(measure, choose, key_memory(key), weighted=False)
  return aggregator(method, num_tasks=num_tasks, shared=shared, unshared=unshared)


@reuses_steps
def gradient_dropout(
  rate: jax.typing.ArrayLike = 0.1,
  noise: str = "gaussian",
  *,
  num_tasks: int | None = None,
  shared: Shared = None,
  key: int | jax.Array = 0,
  unshared: str = "weighted",
) -> optax.GradientTransformationExtraArgs:
  """Averages the gradients after multiplying every coordinate by random noise.

  The noise has mean 1 and is drawn separately for every task and coordinate.

  Args:
    rate: p, the probability that a coordinate is dropped, in [0, 1). The authors
      recommend 0.1 to 0.2.
    noise: "gaussian", of variance ``p / (1 - p)``, which drops no coordinate entirely,
      or "bernoulli", of the same variance: 0 with probability p and ``1 / (1 - p)``
      otherwise.
    num_tasks: K, at least 1. By default it is taken from the first gradients, which
      changes the shapes of the state at the first step.
    shared: Selects the trunk, where the rule applies: a pytree of bools like the
      parameters (or a prefix of it), or a function from the parameters to one. The
      other parameters get the mean of the gradients. Default: all parameters.
    key: An integer or a PRNG key, from which the noise is drawn.
    unshared: "weighted" or "own", the gradients of parameters outside of ``shared``, as
      in :func:`~maxgnr_jax.maxgnr`.

  Returns:
    An :class:`optax.GradientTransformationExtraArgs` with :class:`AggregatorState`,
    whose memory holds the numbers of the next step's ``key``. The update is a weighted
    sum of the gradients in expectation only, so ``weights`` is None.

  Raises:
    ValueError: for ``rate`` outside [0, 1), another ``noise`` or ``num_tasks`` < 1; at
      the trace of ``update``, for gradients that are not stacked or of another number
      of tasks.
    TypeError: for integer or complex parameters or gradients.

  Example:
    >>> import jax.numpy as jnp
    >>> from maxgnr_jax.aggregators import gradient_dropout
    >>> tx = gradient_dropout(0.5, "bernoulli")
    >>> grads = jnp.full((2, 1000), 3.0)
    >>> updates, _ = tx.update(grads, tx.init(jnp.zeros(1000)))
    >>> sorted(set(updates.tolist()))
    [0.0, 3.0, 6.0]

  References:
    Tseng et al., Regularizing Meta-Learning via Gradient Dropout, ACCV 2020. The paper
    applies it in the inner loop of meta-learning; here it is applied to every task's
    gradient.
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
        factor = 1.0 + square_root(p / (1.0 - p)) * drawn
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
  return aggregator(method, num_tasks=num_tasks, shared=shared, unshared=unshared)
