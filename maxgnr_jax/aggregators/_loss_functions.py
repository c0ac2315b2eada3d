"""GLS, STCH and BMTL, which minimise another function of the losses than their sum.

The weights are the derivatives of the function with respect to the losses.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from maxgnr_jax._checks import check_positive, one_per_task
from maxgnr_jax._linalg import active_softmax, num_active
from maxgnr_jax._task_names import check_has_no_names
from maxgnr_jax.aggregators._base import (
  Choice,
  Memory,
  Method,
  Shared,
  Step,
  aggregator,
)
from maxgnr_jax.aggregators._reuse import reuses_steps


@reuses_steps
def gls(
  *,
  num_tasks: int | None = None,
  shared: Shared = None,
  smoothing: jax.typing.ArrayLike | None = None,
  unshared: str = "weighted",
  rescale: str | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Takes the gradient of the geometric mean of the losses (geometric loss strategy).

  The weights are ``(Π_j L_j)^(1/K) / (K L_k)``, so that scaling the loss of one task
  does not change the ratios of the weighted gradients. Losses must be positive: a task
  with another loss gets weight 0 and does not count in the mean. Pass ``losses=`` to
  ``update``.

  Args:
    num_tasks: K, at least 1. By default it is taken from the first gradients, which
      changes the shapes of the state at the first step.
    shared: Accepted so that methods can be exchanged by their name. The weights depend
      on no gradient, so that they are the same whatever it selects.
    smoothing: Decay rate, in [0, 1), of an average of the weights over the steps, as in
      :func:`~maxgnr_jax.maxgnr`. Default: no average.
    unshared: "weighted" or "own", the gradients of parameters outside of ``shared``, as
      in :func:`~maxgnr_jax.maxgnr`.
    rescale: "mean" makes the update as long as the mean of the gradients, as in
      :func:`~maxgnr_jax.maxgnr`. Default: as long as the weights make it.

  Returns:
    An :class:`optax.GradientTransformationExtraArgs` with :class:`AggregatorState`.

  Raises:
    ValueError: for ``num_tasks`` < 1; at the trace of ``update``, for gradients that
      are not stacked or of another number of tasks, and for ``losses`` that are not one
      number per task.
    TypeError: for integer or complex parameters or gradients, and if ``update`` is
      called without ``losses``.

  Example:
    >>> import jax.numpy as jnp
    >>> from maxgnr_jax.aggregators import gls_weights
    >>> gls_weights(jnp.array([4.0, 1.0])).tolist()  # the mean is 2
    [0.25, 1.0]

  References:
    Chennupati et al., MultiNet++: Multi-Stream Feature Aggregation and Geometric Loss
    Strategy for Multi-Task Learning, CVPR Workshops 2019, Eq. 2.
  """
  return _losses_rule(
    gls_weights,
    num_tasks=num_tasks,
    shared=shared,
    smoothing=smoothing,
    unshared=unshared,
    rescale=rescale,
  )


def gls_weights(losses: jax.Array) -> jax.Array:
  """Returns the weights of :func:`gls`, ``(Π_j L_j)^(1/K) / (K L_k)``.

  Args:
    losses: [K].

  Returns:
    [K], non-negative. A task with a loss that is not positive and finite has weight 0
    and does not count in K or the product.
  """
  counted = (losses > 0) & jnp.isfinite(losses)
  logarithm = jnp.where(counted, jnp.log(jnp.where(counted, losses, 1.0)), 0.0)
  number = jnp.maximum(jnp.sum(counted.astype(losses.dtype)), 1.0)
  mean = jnp.sum(logarithm) / number
  return jnp.where(counted, jnp.exp(mean - logarithm) / number, 0.0)


@reuses_steps
def stch(
  mu: jax.typing.ArrayLike = 1.0,
  *,
  preferences: Sequence[float] | None = None,
  ideal: Sequence[float] | None = None,
  num_tasks: int | None = None,
  shared: Shared = None,
  smoothing: jax.typing.ArrayLike | None = None,
  unshared: str = "weighted",
  rescale: str | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Takes the gradient of a smooth maximum of the losses (smooth Tchebycheff).

  The function is ``μ log Σ_k exp(λ_k (L_k - z_k) / μ)``. The smaller μ, the closer it
  is to the largest ``λ_k (L_k - z_k)``. Pass ``losses=`` to ``update``.

  Args:
    mu: μ, positive, in the unit of the losses. The paper tries 0.01 to 1.
    preferences: λ, [K], positive. Default: 1/K for each task, where K is the number of
      active tasks.
    ideal: z, [K], the lowest losses that can be reached. Default: 0 for each task.
    num_tasks: K, at least 1. By default it is taken from the first gradients, which
      changes the shapes of the state at the first step.
    shared: Accepted so that methods can be exchanged by their name. The weights depend
      on no gradient, so that they are the same whatever it selects.
    smoothing: Decay rate, in [0, 1), of an average of the weights over the steps, as in
      :func:`~maxgnr_jax.maxgnr`. Default: no average.
    unshared: "weighted" or "own", the gradients of parameters outside of ``shared``, as
      in :func:`~maxgnr_jax.maxgnr`.
    rescale: "mean" makes the update as long as the mean of the gradients, as in
      :func:`~maxgnr_jax.maxgnr`. Default: as long as the weights make it.

  Returns:
    An :class:`optax.GradientTransformationExtraArgs` with :class:`AggregatorState`.

  Raises:
    ValueError: for ``mu`` <= 0 or ``num_tasks`` < 1; at the trace of ``update``, for
      gradients that are not stacked or of another number of tasks, and for
      ``preferences``, ``ideal`` or ``losses`` that are not one number per task.
    TypeError: for integer or complex parameters or gradients, and if ``update`` is
      called without ``losses``.

  Example:
    >>> import jax.numpy as jnp
    >>> from maxgnr_jax.aggregators import stch_weights
    >>> weights = stch_weights(jnp.array([3.0, 1.0]), 1.0, jnp.full(2, 0.5))
    >>> [f"{weight:.2f}" for weight in weights]
    ['0.37', '0.13']

  References:
    Lin et al., Smooth Tchebycheff Scalarization for Multi-Objective Optimization, ICML
    2024. In place of the losses, the authors' code for multi-task learning takes the
    logarithms of the losses divided by their means after a warm-up.
  """
  check_positive("mu", mu)
  given = {"preferences": preferences, "ideal": ideal}
  for name, vector in given.items():
    check_has_no_names(name, vector)
  vectors = {name: np.asarray(v) for name, v in given.items() if v is not None}

  def weighting(losses: jax.Array) -> jax.Array:
    known = {name: one_per_task(name, v, losses) for name, v in vectors.items()}
    equal = jnp.ones_like(losses) / num_active(jnp.isfinite(losses), losses.dtype)
    preferred = known.get("preferences", equal)
    best = known.get("ideal", jnp.zeros_like(losses))
    return stch_weights(losses - best, mu, preferred)

  return _losses_rule(
    weighting,
    num_tasks=num_tasks,
    shared=shared,
    smoothing=smoothing,
    unshared=unshared,
    rescale=rescale,
  )


def stch_weights(
  losses: jax.Array, mu: jax.typing.ArrayLike, preferences: jax.Array
) -> jax.Array:
  """Returns the weights of :func:`stch`, ``λ_k softmax(λ (L - z) / μ)_k``.

  Args:
    losses: [K], ``L - z``, the losses above their ideal.
    mu: μ, positive, in the unit of the losses.
    preferences: [K], λ, positive.

  Returns:
    [K], non-negative. A task with a loss that is not finite has weight 0 and does not
    count in the softmax.
  """
  finite, losses = _finite(losses)
  preferred = preferences * losses / jnp.asarray(mu, losses.dtype)
  return preferences * active_softmax(finite & jnp.isfinite(preferred), preferred)


@reuses_steps
def bmtl(
  temperature: jax.typing.ArrayLike = 1.0,
  *,
  num_tasks: int | None = None,
  shared: Shared = None,
  smoothing: jax.typing.ArrayLike | None = None,
  unshared: str = "weighted",
  rescale: str | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Weights tasks by ``exp(L_k / T)``, which favours those with larger losses.

  The update points along the gradient of ``Σ_k exp(L_k / T)``. The weights are divided
  by their sum, so that they sum to 1 and large losses do not overflow. Pass ``losses=``
  to ``update``.

  Args:
    temperature: T, positive, in the unit of the losses. Smaller values favour the
      largest loss more strongly. The paper's value was not available to us;
      implementations use 0.2 to 50.
    num_tasks: K, at least 1. By default it is taken from the first gradients, which
      changes the shapes of the state at the first step.
    shared: Accepted so that methods can be exchanged by their name. The weights depend
      on no gradient, so that they are the same whatever it selects.
    smoothing: Decay rate, in [0, 1), of an average of the weights over the steps, as in
      :func:`~maxgnr_jax.maxgnr`. Default: no average.
    unshared: "weighted" or "own", the gradients of parameters outside of ``shared``, as
      in :func:`~maxgnr_jax.maxgnr`.
    rescale: "mean" makes the update as long as the mean of the gradients, as in
      :func:`~maxgnr_jax.maxgnr`. Default: as long as the weights make it.

  Returns:
    An :class:`optax.GradientTransformationExtraArgs` with :class:`AggregatorState`.

  Raises:
    ValueError: for ``temperature`` <= 0 or ``num_tasks`` < 1; at the trace of
      ``update``, for gradients that are not stacked or of another number of tasks, and
      for ``losses`` that are not one number per task.
    TypeError: for integer or complex parameters or gradients, and if ``update`` is
      called without ``losses``.

  Example:
    >>> import jax.numpy as jnp
    >>> from maxgnr_jax.aggregators import bmtl_weights
    >>> weights = bmtl_weights(jnp.array([2.0, 1.0]), 1.0)
    >>> [f"{weight:.2f}" for weight in weights]
    ['0.73', '0.27']

  References:
    Liang and Zhang, A Simple General Approach to Balance Task Difficulty in Multi-Task
    Learning, 2020, with ``h(z) = exp(z / T)`` as in other authors' implementations.
  """
  check_positive("temperature", temperature)
  return _losses_rule(
    lambda losses: bmtl_weights(losses, temperature),
    num_tasks=num_tasks,
    shared=shared,
    smoothing=smoothing,
    unshared=unshared,
    rescale=rescale,
  )


def bmtl_weights(losses: jax.Array, temperature: jax.typing.ArrayLike) -> jax.Array:
  """Returns the weights of :func:`bmtl`, ``softmax(L / T)``.

  Args:
    losses: [K].
    temperature: T, positive, in the unit of the losses.

  Returns:
    [K], non-negative, of sum 1; 0 for a task with a loss that is not finite.
  """
  finite, losses = _finite(losses)
  logits = losses / jnp.asarray(temperature, losses.dtype)
  return active_softmax(finite & jnp.isfinite(logits), logits)


def _finite(losses: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Tells which losses are finite, and replaces the others by 0."""
  finite = jnp.isfinite(losses)
  return finite, jnp.where(finite, losses, 0.0)


def _losses_rule(
  weighting: Callable[[jax.Array], jax.Array], **frame: Any
) -> optax.GradientTransformationExtraArgs:
  """Makes an aggregator of a function from the losses to the weights.

  Args:
    weighting: From the losses [K], infinite for inactive tasks, to weights [K].
    **frame: Arguments of :func:`aggregator`.
  """

  def measure(step: Step, memory: Memory) -> tuple[Any, None]:
    del memory
    return step.values["losses"], None

  def choose(losses: jax.Array, active: jax.Array, memory: Memory) -> Choice:
    del memory
    return Choice(weighting(jnp.where(active, losses, jnp.inf)))

  method = Method(measure, choose, values=("losses",), measures="nothing")
  return aggregator(method, **frame)
