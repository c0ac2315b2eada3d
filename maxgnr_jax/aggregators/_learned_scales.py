"""Uncertainty weighting and IMTL-L, which learn a scale per task with the model."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from maxgnr_jax._checks import check_optimizer
from maxgnr_jax.aggregators._base import (
  Choice,
  Memory,
  Method,
  Shared,
  Step,
  aggregator,
)
from maxgnr_jax.aggregators._remembered import learn
from maxgnr_jax.aggregators._reuse import reuses_steps


@reuses_steps
def uncertainty(
  optimizer: optax.GradientTransformation = optax.adam(0.025),
  *,
  num_tasks: int | None = None,
  shared: Shared = None,
  smoothing: jax.typing.ArrayLike | None = None,
  unshared: str = "weighted",
  rescale: str | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Weights each task by its homoscedastic uncertainty, learned with the model.

  Each task has a log-variance s_k. An optimiser minimises
  ``Σ_k (½ exp(-s_k) L_k + ½ s_k)`` with respect to it, and the task's weight is
  ``½ exp(-s_k)``. At the optimum ``s_k = log L_k``. Pass ``losses=`` to ``update``.

  Args:
    optimizer: Optimiser of the log-variances, which start at 0. The default is the one
      in the experiments of Nash-MTL.
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
    An :class:`optax.GradientTransformationExtraArgs` with :class:`AggregatorState`,
    whose memory holds ``log_variance`` [K] and ``optimizer``, the optimiser's state.

  Raises:
    ValueError: for ``num_tasks`` < 1; at the trace of ``update``, for gradients that
      are not stacked or of another number of tasks, and for ``losses`` that are not one
      number per task.
    TypeError: if ``optimizer`` is not a gradient transformation, for integer or complex
      parameters or gradients, and if ``update`` is called without ``losses``.

  Example:
    >>> import jax.numpy as jnp
    >>> import optax
    >>> from maxgnr_jax.aggregators import uncertainty
    >>> tx = uncertainty(optax.sgd(1.0), num_tasks=2)
    >>> state = tx.init(jnp.zeros(2))
    >>> losses = jnp.array([3.0, 1.0])
    >>> _, state = tx.update(jnp.eye(2), state, losses=losses)
    >>> state.memory["log_variance"].tolist()
    [1.0, 0.0]

  References:
    Kendall et al., Multi-Task Learning Using Uncertainty to Weigh Losses for Scene
    Geometry and Semantics, CVPR 2018, Eq. 7, in the form for regression. For
    classification the paper derives ``exp(-s_k) L_k`` in place of
    ``½ exp(-s_k) L_k``: double the loss of such a task.
  """

  def gradient(s, losses):
    return 0.5 - 0.5 * jnp.exp(-s) * losses

  def weights(s):
    return 0.5 * jnp.exp(-s)

  return _learned_scale(
    "log_variance",
    gradient,
    weights,
    optimizer,
    num_tasks=num_tasks,
    shared=shared,
    smoothing=smoothing,
    unshared=unshared,
    rescale=rescale,
  )


@reuses_steps
def imtl_l(
  optimizer: optax.GradientTransformation = optax.adam(0.025),
  *,
  num_tasks: int | None = None,
  shared: Shared = None,
  smoothing: jax.typing.ArrayLike | None = None,
  unshared: str = "weighted",
  rescale: str | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Learns weights that bring every weighted loss to 1.

  Each task has a log-scale s_k. An optimiser minimises ``Σ_k (exp(s_k) L_k - s_k)``
  with respect to it, and the task's weight is ``exp(s_k)``. At the optimum
  ``s_k = -log L_k``. Pass ``losses=`` to ``update``.

  Args:
    optimizer: Optimiser of the log-scales, which start at 0.
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
    An :class:`optax.GradientTransformationExtraArgs` with :class:`AggregatorState`,
    whose memory holds ``log_scale`` [K] and ``optimizer``, the optimiser's state.

  Raises:
    ValueError: for ``num_tasks`` < 1; at the trace of ``update``, for gradients that
      are not stacked or of another number of tasks, and for ``losses`` that are not one
      number per task.
    TypeError: if ``optimizer`` is not a gradient transformation, for integer or complex
      parameters or gradients, and if ``update`` is called without ``losses``.

  Example:
    >>> import jax.numpy as jnp
    >>> import optax
    >>> from maxgnr_jax.aggregators import imtl_l
    >>> tx = imtl_l(optax.sgd(0.5), num_tasks=2)
    >>> state = tx.init(jnp.zeros(2))
    >>> losses = jnp.array([3.0, 1.0])
    >>> _, state = tx.update(jnp.eye(2), state, losses=losses)
    >>> state.memory["log_scale"].tolist()
    [-1.0, 0.0]

  References:
    Liu et al., Towards Impartial Multi-task Learning, ICLR 2021, Section 3.2.
  """

  def gradient(s, losses):
    return jnp.exp(s) * losses - 1.0

  return _learned_scale(
    "log_scale",
    gradient,
    jnp.exp,
    optimizer,
    num_tasks=num_tasks,
    shared=shared,
    smoothing=smoothing,
    unshared=unshared,
    rescale=rescale,
  )


def _learned_scale(
  name: str,
  gradient: Callable[[jax.Array, jax.Array], jax.Array],
  weights: Callable[[jax.Array], jax.Array],
  optimizer: optax.GradientTransformation,
  **frame: Any,
) -> optax.GradientTransformationExtraArgs:
  """Makes an aggregator that learns a number s per task, starting at 0.

  Args:
    name: Name of s in the memory.
    gradient: From s [K] and the losses [K] to the gradient with respect to s, [K].
    weights: From s [K] to the task weights [K].
    optimizer: Optimiser of s.
    **frame: Arguments of :func:`aggregator`.
  """
  check_optimizer(optimizer)

  def init(params: Any, shape: tuple[int, ...], dtype: Any) -> Memory:
    del params
    s = jnp.zeros(shape, dtype)
    return {name: s, "optimizer": optimizer.init(s)}

  def measure(step: Step, memory: Memory) -> tuple[Any, None]:
    del memory
    return step.values["losses"], None

  def choose(losses: jax.Array, active: jax.Array, memory: Memory) -> Choice:
    s = memory[name]
    slope = gradient(s, losses)
    moved, after = learn(active, optimizer, slope, s, memory["optimizer"])
    return Choice(weights(s), {name: moved, "optimizer": after})

  method = Method(measure, choose, init, values=("losses",), measures="nothing")
  return aggregator(method, **frame)
