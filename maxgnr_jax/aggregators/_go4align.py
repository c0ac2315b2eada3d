"""GO4Align, group optimisation for multi-task alignment."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from maxgnr_jax._checks import check_not_negative, check_whole
from maxgnr_jax._linalg import active_softmax, cluster_means, remember, zero_inactive
from maxgnr_jax.aggregators._base import (
  Choice,
  Memory,
  Method,
  Shared,
  Step,
  aggregator,
)
from maxgnr_jax.aggregators._remembered import shares
from maxgnr_jax.aggregators._reuse import reuses_steps

# The least that a loss counts with: its inverse, as a weight, must not overflow.
SMALLEST_LOSS = 1e-15


@reuses_steps
def go4align(
  num_groups: int = 2,
  step_size: jax.typing.ArrayLike = 1e-4,
  *,
  num_tasks: int | None = None,
  shared: Shared = None,
  smoothing: jax.typing.ArrayLike | None = None,
  unshared: str = "weighted",
  rescale: str | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Brings losses to one scale, and gives tasks in similar situations the same weight.

  Each task has an indicator ``p_k Σ_j L_j / L_k``. The probabilities p start equal, and
  every step multiplies them by ``exp(-η L_k)``, so that they fall for tasks with a
  history of large losses. Tasks are divided into groups of similar indicators, and the
  weight of a task is the mean indicator of its group. Losses must be positive: a task
  with another loss gets weight 0 in that step. Pass ``losses=`` to ``update``.

  Args:
    num_groups: Number of groups, at least 1. Never more are made than there are tasks.
    step_size: η, at least 0, in the inverse unit of the losses; the authors take the
      default.
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
    whose memory holds the ``probabilities`` [K].

  Raises:
    ValueError: for ``num_groups`` < 1, ``step_size`` < 0 or ``num_tasks`` < 1; at the
      trace of ``update``, for gradients that are not stacked or of another number of
      tasks, and for ``losses`` that are not one number per task.
    TypeError: for integer or complex parameters or gradients, and if ``update`` is
      called without ``losses``.

  Example:
    >>> import jax.numpy as jnp
    >>> from maxgnr_jax.aggregators import go4align
    >>> tx = go4align(num_groups=2, step_size=0.0)
    >>> losses = jnp.array([1.0, 2.0, 9.0])
    >>> _, state = tx.update(jnp.eye(3), tx.init(jnp.zeros(3)), losses=losses)
    >>> [f"{weight:.2f}" for weight in state.weights]  # the means of 4, and 2 and 4/9
    ['4.00', '1.22', '1.22']

  References:
    Shen et al., GO4Align: Group Optimization for Multi-Task Alignment, NeurIPS 2024.
    The authors' code groups by k-means from random starts. In one dimension its optimum
    can be computed, which is what this does.
  """
  check_whole("num_groups", num_groups, 1)
  check_not_negative("step_size", step_size)

  def init(params: Any, shape: tuple[int, ...], dtype: Any) -> Memory:
    del params
    return {"probabilities": jnp.full(shape, 1.0 / max(shape[-1], 1), dtype)}

  def measure(step: Step, memory: Memory) -> tuple[jax.Array, None]:
    del memory
    return step.values["losses"], None

  def choose(losses: jax.Array, active: jax.Array, memory: Memory) -> Choice:
    dtype = losses.dtype
    counted = active & (losses > 0)
    losses = jnp.where(counted, jnp.maximum(losses, SMALLEST_LOSS), 1.0)
    last, total = shares(counted, memory["probabilities"])
    logits = jnp.log(jnp.maximum(last, jnp.finfo(dtype).tiny))
    logits -= jnp.asarray(step_size, dtype) * losses
    probability = active_softmax(counted, logits)
    scale = jnp.sum(zero_inactive(counted, losses)) / losses
    weights = cluster_means(counted, scale * probability, num_groups)
    new = {"probabilities": total * probability}
    return Choice(weights, remember(counted, new, memory))

  method = Method(measure, choose, init, values=("losses",), measures="nothing")
  return aggregator(
    method,
    num_tasks=num_tasks,
    shared=shared,
    smoothing=smoothing,
    unshared=unshared,
    rescale=rescale,
  )
