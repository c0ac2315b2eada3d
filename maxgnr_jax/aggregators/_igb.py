"""IGB, improvable gap balancing, in its first form."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from maxgnr_jax._checks import check_whole
from maxgnr_jax._linalg import active_softmax, num_active, remember
from maxgnr_jax.aggregators._base import (
  Choice,
  Memory,
  Method,
  Shared,
  Step,
  aggregator,
)
from maxgnr_jax.aggregators._reuse import reuses_steps

# The least that a loss counts with: its inverse, as a weight, must not overflow.
SMALLEST_LOSS = 1e-15


@reuses_steps
def igb(
  steps_per_epoch: int,
  base_epoch: int = 2,
  *,
  num_tasks: int | None = None,
  shared: Shared = None,
  smoothing: jax.typing.ArrayLike | None = None,
  unshared: str = "weighted",
  rescale: str | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Gives more weight to tasks whose losses have fallen least since an early epoch.

  The update is the sum of the gradients of ``log L_k``, weighted by
  ``K softmax(L / L_base)_k``: the weights are ``K softmax(L / L_base)_k / L_k``, where
  ``L_base`` holds each task's mean loss in an early epoch, and ``1 / L_k`` until that
  epoch is over. Scaling a task's loss does not change the direction of the update.
  Losses must be positive: a task with another loss gets weight 0 in that step. Pass
  ``losses=`` to ``update``.

  Args:
    steps_per_epoch: Number of updates in an epoch, at least 1. Each task's epochs count
      only the updates in which it is active.
    base_epoch: The epoch over which losses are averaged, counted from 1. The authors
      take the second.
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
    whose memory holds ``base_losses`` [K], each task's mean loss in the base epoch so
    far, and ``base_count`` [K], of how many positive losses.

  Raises:
    ValueError: for ``steps_per_epoch`` < 1, ``base_epoch`` < 1 or ``num_tasks`` < 1; at
      the trace of ``update``, for gradients that are not stacked or of another number
      of tasks, and for ``losses`` that are not one number per task.
    TypeError: for integer or complex parameters or gradients, and if ``update`` is
      called without ``losses``.

  Example:
    >>> import jax.numpy as jnp
    >>> from maxgnr_jax.aggregators import igb
    >>> tx = igb(steps_per_epoch=1, base_epoch=1, num_tasks=2)
    >>> state = tx.init(jnp.zeros(2))
    >>> for losses in (jnp.array([4.0, 2.0]), jnp.array([1.0, 2.0])):
    ...   _, state = tx.update(jnp.eye(2), state, losses=losses)
    >>> [f"{weight:.2f}" for weight in state.weights]  # softmax of 1/4 and 1
    ['0.64', '0.68']

  References:
    Dai et al., Improvable Gap Balancing for Multi-Task Learning, UAI 2023, IGBv1, on
    logarithms of the losses as in the authors' code.
  """
  check_whole("steps_per_epoch", steps_per_epoch, 1)
  check_whole("base_epoch", base_epoch, 1)

  def init(params: Any, shape: tuple[int, ...], dtype: Any) -> Memory:
    del params
    return {name: jnp.zeros(shape, dtype) for name in ("base_losses", "base_count")}

  def measure(step: Step, memory: Memory) -> tuple[Any, None]:
    del memory
    return (step.values["losses"], step.task_count), None

  def choose(measurements: Any, active: jax.Array, memory: Memory) -> Choice:
    losses, task_count = measurements
    dtype = losses.dtype
    counted = active & (losses > 0)
    epoch = task_count // steps_per_epoch + 1
    base, count = memory["base_losses"], memory["base_count"]

    known = counted & (epoch > base_epoch) & (count > 0)
    gap = losses / jnp.where(known, jnp.maximum(base, SMALLEST_LOSS), 1.0)
    # Tasks without a base loss have weight 1, and the others share the rest of K.
    share = num_active(known, dtype) * active_softmax(known, gap)
    share = jnp.where(known, share, counted.astype(dtype))
    weights = share / jnp.where(counted, jnp.maximum(losses, SMALLEST_LOSS), 1.0)

    sample = (losses - base) / (count + 1.0)
    new = {"base_losses": base + sample, "base_count": count + 1.0}
    taken = counted & (epoch == base_epoch)
    return Choice(weights, remember(taken, new, memory))

  method = Method(measure, choose, init, values=("losses",), measures="nothing")
  return aggregator(
    method,
    num_tasks=num_tasks,
    shared=shared,
    smoothing=smoothing,
    unshared=unshared,
    rescale=rescale,
  )
