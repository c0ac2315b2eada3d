"""DWA, dynamic weight averaging."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from maxgnr_jax._checks import check_positive, check_whole
from maxgnr_jax.baselines._method import Choice, Step, method


def dwa(
  steps_per_epoch: int,
  temperature: jax.typing.ArrayLike = 2.0,
  *,
  num_tasks: int | None = None,
) -> optax.GradientTransformationExtraArgs:
  """More weight for the tasks whose losses fell less over the last two epochs.

  ``w_k = K softmax(r / T)_k``, where ``r_k`` is the mean loss of the last epoch divided
  by that of the epoch before; 1 in the first two epochs. Pass ``losses=`` to
  ``update``.

  Args:
    steps_per_epoch: How many updates an epoch has, at least 1.
    temperature: T, positive; larger is nearer to equal weights.
    num_tasks: As in :func:`gramian_method`.

  Returns:
    An :class:`optax.GradientTransformationExtraArgs` with :class:`BaselineState`, whose
    memory holds, each [K], ``loss_sum`` and ``loss_count`` of this epoch and the means
    ``last_epoch`` and ``epoch_before``. A loss that is not finite does not count.

  Raises:
    ValueError: for ``steps_per_epoch`` < 1 or ``temperature`` <= 0.
    TypeError: if ``update`` is called without ``losses``.

  Example:
    >>> import jax.numpy as jnp
    >>> from maxgnr_jax.baselines import dwa
    >>> tx = dwa(steps_per_epoch=1, num_tasks=2)
    >>> state = tx.init(jnp.zeros(2))
    >>> for losses in (jnp.array([4.0, 4.0]), jnp.array([1.0, 4.0]), jnp.zeros(2)):
    ...   _, state = tx.update(jnp.eye(2), state, losses=losses)
    >>> [f"{weight:.2f}" for weight in state.weights]  # falls to 1/4, and not at all
    ['0.81', '1.19']

  References:
    Liu et al., End-to-End Multi-Task Learning with Attention, CVPR 2019, Eq. 7.
  """
  check_whole("steps_per_epoch", steps_per_epoch, 1)
  check_positive("temperature", temperature)

  def memory(params, tasks, dtype):
    del params
    names = ("loss_sum", "loss_count", "last_epoch", "epoch_before")
    return {name: jnp.zeros((tasks,), dtype) for name in names}

  def choose(step: Step, memory: dict[str, Any]) -> Choice:
    losses = step.task_values("losses")
    begins = (step.count > 0) & (step.count % steps_per_epoch == 0)
    total, counted = memory["loss_sum"], memory["loss_count"]
    last, before = memory["last_epoch"], memory["epoch_before"]
    mean = jnp.where(counted > 0, total / jnp.maximum(counted, 1.0), last)
    last, before = jnp.where(begins, mean, last), jnp.where(begins, last, before)

    rate = jnp.where(before != 0, last / jnp.where(before != 0, before, 1.0), 1.0)
    softmax = jax.nn.softmax(rate / jnp.asarray(temperature, step.dtype))
    ready = step.count >= 2 * steps_per_epoch
    weights = jnp.where(ready, step.num_tasks * softmax, 1.0)

    finite = jnp.isfinite(losses)
    return Choice(
      weights,
      {
        "loss_sum": jnp.where(begins, 0.0, total) + jnp.where(finite, losses, 0.0),
        "loss_count": jnp.where(begins, 0.0, counted) + finite.astype(step.dtype),
        "last_epoch": last,
        "epoch_before": before,
      },
    )

  return method(choose, memory, num_tasks=num_tasks)
