"""DWA, dynamic weight averaging."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from maxgnr_jax._checks import check_positive, check_whole
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

LARGEST_RATE = 1e15  # the quotient of two finite losses may be infinite


@reuses_steps
def dwa(
  steps_per_epoch: int,
  temperature: jax.typing.ArrayLike = 2.0,
  *,
  num_tasks: int | None = None,
  shared: Shared = None,
  smoothing: jax.typing.ArrayLike | None = None,
  unshared: str = "weighted",
  rescale: str | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Gives more weight to tasks with losses that fell less over the last two epochs.

  The weights are ``w_k = K softmax(r / T)_k``, where ``r_k`` is the task's mean loss in
  the last epoch divided by that in the epoch before, and 1 during a task's first two
  epochs. Pass ``losses=`` to ``update``.

  Args:
    steps_per_epoch: Number of updates in an epoch, at least 1. Each task's epochs count
      only the updates in which it is active.
    temperature: T, positive. Larger values bring the weights nearer to uniform ones;
      the paper uses the default.
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
    whose memory holds ``loss_sum`` [K], the sum of each task's losses in this epoch,
    and ``last_epoch`` [K] and ``epoch_before`` [K], its mean losses in the two epochs
    before, 0 until these are complete.

  Raises:
    ValueError: for ``steps_per_epoch`` < 1, ``temperature`` <= 0 or ``num_tasks`` < 1;
      at the trace of ``update``, for gradients that are not stacked or of another
      number of tasks, and for ``losses`` that are not one number per task.
    TypeError: for integer or complex parameters or gradients, and if ``update`` is
      called without ``losses``.

  Example:
    >>> import jax.numpy as jnp
    >>> from maxgnr_jax.aggregators import dwa
    >>> tx = dwa(steps_per_epoch=1, num_tasks=2)
    >>> state = tx.init(jnp.zeros(2))
    >>> for losses in (jnp.array([4.0, 4.0]), jnp.array([1.0, 4.0]), jnp.zeros(2)):
    ...   _, state = tx.update(jnp.eye(2), state, losses=losses)
    >>> [f"{weight:.2f}" for weight in state.weights]  # ratios: 1/4 and 1
    ['0.81', '1.19']

  References:
    Liu et al., End-to-End Multi-Task Learning with Attention, CVPR 2019, Eq. 7.
  """
  check_whole("steps_per_epoch", steps_per_epoch, 1)
  check_positive("temperature", temperature)

  def init(params: Any, shape: tuple[int, ...], dtype: Any) -> Memory:
    del params
    names = ("loss_sum", "last_epoch", "epoch_before")
    return {name: jnp.zeros(shape, dtype) for name in names}

  def measure(step: Step, memory: Memory) -> tuple[Any, None]:
    del memory
    return (step.values["losses"], step.task_count), None

  def choose(measurements: Any, active: jax.Array, memory: Memory) -> Choice:
    losses, task_count = measurements
    dtype = losses.dtype
    begins = (task_count > 0) & (task_count % steps_per_epoch == 0)
    total, last = memory["loss_sum"], memory["last_epoch"]
    mean = total / jnp.asarray(steps_per_epoch, dtype)
    before = jnp.where(begins, last, memory["epoch_before"])
    last = jnp.where(begins, mean, last)

    # `before` is 0 in the first two epochs.
    rate = jnp.where(before != 0, last / jnp.where(before != 0, before, 1.0), 1.0)
    rate = jnp.clip(rate, -LARGEST_RATE, LARGEST_RATE)
    softmax = active_softmax(active, rate / jnp.asarray(temperature, dtype))
    new = {
      "loss_sum": jnp.where(begins, 0.0, total) + losses,
      "last_epoch": last,
      "epoch_before": before,
    }
    weights = num_active(active, dtype) * softmax
    return Choice(weights, remember(active, new, memory))

  method = Method(measure, choose, init, values=("losses",), measures="nothing")
  return aggregator(
    method,
    num_tasks=num_tasks,
    shared=shared,
    smoothing=smoothing,
    unshared=unshared,
    rescale=rescale,
  )
