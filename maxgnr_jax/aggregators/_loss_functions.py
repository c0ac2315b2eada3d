"""GLS, STCH and BMTL: one function of all the losses in place of their sum.

Its derivatives by the losses are the weights.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from maxgnr_jax._checks import check_positive
from maxgnr_jax._linalg import active_softmax
from maxgnr_jax.aggregators._base import (
  Choice,
  Memory,
  Method,
  Shared,
  Step,
  aggregator,
)


def gls(
  *, num_tasks: int | None = None, shared: Shared = None
) -> optax.GradientTransformationExtraArgs:
  """The gradient of the losses' geometric mean, for the geometric loss strategy.

  A task's share does not depend on the scale of its loss. Losses must be positive; a
  task whose loss is not gets weight 0, and the mean is that of the others. Pass
  ``losses=`` to ``update``.

  Args:
    num_tasks: K, at least 1. By default it is taken from the first gradients, which
      changes the shapes of the state at the first step.
    shared: Accepted so that methods can be exchanged by their name. The weights depend
      on no gradient, so that they are the same whatever it selects.

  Returns:
    An :class:`optax.GradientTransformationExtraArgs` with :class:`AggregatorState`.

  Raises:
    TypeError: if ``update`` is called without ``losses``.

  Example:
    >>> import jax.numpy as jnp
    >>> from maxgnr_jax.aggregators import gls_weights
    >>> gls_weights(jnp.array([4.0, 1.0])).tolist()  # the mean is 2
    [0.25, 1.0]

  References:
    Chennupati et al., MultiNet++: Multi-Stream Feature Aggregation and Geometric Loss
    Strategy for Multi-Task Learning, CVPR Workshops 2019, Eq. 2.
  """
  return _of_losses(gls_weights, num_tasks, shared)


def gls_weights(losses: jax.Array) -> jax.Array:
  """The weights of :func:`gls`: ``(Π L)^(1/K) / (K L_k)``.

  Args:
    losses: [K].

  Returns:
    [K], non-negative; 0 for a loss that is not positive and finite, as if there were
    the others only.
  """
  present = (losses > 0) & jnp.isfinite(losses)
  logarithm = jnp.where(present, jnp.log(jnp.where(present, losses, 1.0)), 0.0)
  number = jnp.maximum(jnp.sum(present.astype(losses.dtype)), 1.0)
  mean = jnp.sum(logarithm) / number
  return jnp.where(present, jnp.exp(mean - logarithm) / number, 0.0)


def stch(
  mu: jax.typing.ArrayLike = 1.0,
  *,
  preferences: Sequence[float] | None = None,
  ideal: Sequence[float] | None = None,
  num_tasks: int | None = None,
  shared: Shared = None,
) -> optax.GradientTransformationExtraArgs:
  """The gradient of a smooth largest loss, smooth Tchebycheff scalarization.

  ``μ log Σ exp(λ_k (L_k - z_k) / μ)``: the largest preferred loss, the more closely the
  smaller μ. Pass ``losses=`` to ``update``.

  Args:
    mu: μ, positive, in the unit of the losses. The paper tries 0.01 to 1.
    preferences: λ, [K], positive; default 1/K each, where K is the number of active tasks.
    ideal: z, [K], the lowest losses that can be reached; default 0.
    num_tasks: K, at least 1. By default it is taken from the first gradients, which
      changes the shapes of the state at the first step.
    shared: Accepted so that methods can be exchanged by their name. The weights depend
      on no gradient, so that they are the same whatever it selects.

  Returns:
    An :class:`optax.GradientTransformationExtraArgs` with :class:`AggregatorState`.

  Raises:
    ValueError: for ``mu`` <= 0, or vectors that are not [K].
    TypeError: if ``update`` is called without ``losses``.

  Example:
    >>> import jax.numpy as jnp
    >>> from maxgnr_jax.aggregators import stch_weights
    >>> weights = stch_weights(jnp.array([3.0, 1.0]), 1.0, jnp.full(2, 0.5))
    >>> [f"{weight:.2f}" for weight in weights]
    ['0.37', '0.13']

  References:
    Lin et al., Smooth Tchebycheff Scalarization for Multi-Objective Optimization, ICML
    2024. The authors' code for multi-task learning instead takes the logarithms of
    losses divided by their means after a warm-up.
  """
  check_positive("mu", mu)
  given = {"preferences": preferences, "ideal": ideal}
  vectors = {name: np.asarray(v) for name, v in given.items() if v is not None}

  def weighting(losses: jax.Array) -> jax.Array:
    for name, vector in vectors.items():
      if vector.shape != losses.shape:
        raise ValueError(
          f"`{name}` must hold one number per task, shape {losses.shape}, got shape "
          f"{vector.shape}."
        )
    equal = jnp.ones_like(losses) / jnp.sum(jnp.isfinite(losses), dtype=losses.dtype)
    preferred = jnp.asarray(vectors.get("preferences", equal), losses.dtype)
    best = jnp.asarray(vectors.get("ideal", 0.0), losses.dtype)
    return stch_weights(losses - best, mu, preferred)

  return _of_losses(weighting, num_tasks, shared)


def stch_weights(
  losses: jax.Array, mu: jax.typing.ArrayLike, preferences: jax.Array
) -> jax.Array:
  """The weights of :func:`stch`: ``λ_k softmax(λ (L - z) / μ)_k``.

  Args:
    losses: [K], ``L - z``.
    mu: μ, positive.
    preferences: [K], λ.

  Returns:
    [K], non-negative; 0 for a loss that is not finite, as if there were the others
    only.
  """
  preferred = preferences * losses / jnp.asarray(mu, losses.dtype)
  return preferences * active_softmax(jnp.isfinite(preferred), preferred)


def bmtl(
  temperature: jax.typing.ArrayLike = 1.0,
  *,
  num_tasks: int | None = None,
  shared: Shared = None,
) -> optax.GradientTransformationExtraArgs:
  """The gradient of ``Σ exp(L_k / T)``, which cares more for the larger losses.

  The weights are those derivatives in units of their sum, so that no loss is too large
  for them: they sum to 1. Pass ``losses=`` to ``update``.

  Args:
    temperature: T, positive, in the unit of the losses. The paper's choice was not at
      hand; implementations differ from 0.2 to 50.
    num_tasks: K, at least 1. By default it is taken from the first gradients, which
      changes the shapes of the state at the first step.
    shared: Accepted so that methods can be exchanged by their name. The weights depend
      on no gradient, so that they are the same whatever it selects.

  Returns:
    An :class:`optax.GradientTransformationExtraArgs` with :class:`AggregatorState`.

  Raises:
    ValueError: for ``temperature`` <= 0.
    TypeError: if ``update`` is called without ``losses``.

  Example:
    >>> import jax.numpy as jnp
    >>> from maxgnr_jax.aggregators import bmtl_weights
    >>> weights = bmtl_weights(jnp.array([2.0, 1.0]), 1.0)
    >>> [f"{weight:.2f}" for weight in weights]
    ['0.73', '0.27']

  References:
    Liang and Zhang, A Simple General Approach to Balance Task Difficulty in Multi-Task
    Learning, 2020, with ``h(z) = exp(z / T)``, as implementations of others give it.
  """
  check_positive("temperature", temperature)
  return _of_losses(lambda losses: bmtl_weights(losses, temperature), num_tasks, shared)


def bmtl_weights(losses: jax.Array, temperature: jax.typing.ArrayLike) -> jax.Array:
  """The weights of :func:`bmtl`: ``softmax(L / T)``.

  Args:
    losses: [K].
    temperature: T, positive.

  Returns:
    [K], non-negative, of sum 1; 0 for a loss that is not finite.
  """
  logits = losses / jnp.asarray(temperature, losses.dtype)
  return active_softmax(jnp.isfinite(logits), logits)


def _of_losses(
  weighting: Callable[[jax.Array], jax.Array], num_tasks: int | None, shared: Shared
) -> optax.GradientTransformationExtraArgs:
  """Makes an aggregator of a function from the losses to the weights.

  Losses of inactive tasks are infinite.
  """

  def measure(step: Step, memory: Memory) -> tuple[Any, None]:
    del memory
    return step.values["losses"], None

  def choose(losses: jax.Array, active: jax.Array, memory: Memory) -> Choice:
    del memory
    return Choice(weighting(jnp.where(active, losses, jnp.inf)))

  method = Method(measure, choose, values=("losses",))
  return aggregator(method, num_tasks=num_tasks, shared=shared)
