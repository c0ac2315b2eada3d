"""The trimmed mean, which drops the extreme values of every coordinate."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from maxgnr_jax import _stacked
from maxgnr_jax._checks import check_integer
from maxgnr_jax._linalg import uniform_weights
from maxgnr_jax.aggregators._base import (
  Choice,
  Memory,
  Method,
  Shared,
  Step,
  aggregator,
)
from maxgnr_jax.aggregators._gramian import skips_zero_gradients


def trimmed_mean(
  trim: int = 1,
  *,
  num_tasks: int | None = None,
  shared: Shared = None,
  zero_gradients: str = "inactive",
  unshared: str = "weighted",
) -> optax.GradientTransformationExtraArgs:
  """Averages each coordinate over the tasks after dropping its extreme values.

  The method comes from federated learning, where some of the K workers may send
  arbitrary gradients. With ``trim = (K - 1) / 2`` the update is the median.

  Args:
    trim: Number of the largest values, and also of the smallest ones, that are dropped
      in every coordinate, at least 0 and less than K / 2. In a step with too few active
      tasks fewer are dropped, so that one or two values remain: the update is then the
      median.
    num_tasks: K, at least 1. By default it is taken from the first gradients, which
      changes the shapes of the state at the first step.
    shared: Selects the trunk, where the rule applies: a pytree of bools like the
      parameters (or a prefix of it), or a function from the parameters to one. The
      other parameters get the mean of the gradients. Default: all parameters.
    zero_gradients: "inactive" or "active": whether a task whose gradient is exactly
      zero is left out of the step, as if ``task_mask`` were False for it, or takes part
      as the method defines it: its zeros are ranked with the others' values.
    unshared: "weighted" or "own", the gradients of parameters outside of ``shared``, as
      in :func:`~maxgnr_jax.maxgnr`.

  Returns:
    An :class:`optax.GradientTransformationExtraArgs` with :class:`AggregatorState`. The
    update is not a weighted sum of the gradients, so ``weights`` is None.

  Raises:
    ValueError: for ``trim`` < 0, ``num_tasks`` < 1 or another value of
      ``zero_gradients``; at the trace of ``update``, for fewer than ``2 trim + 1``
      tasks, and for gradients that are not stacked or of another number of tasks.
    TypeError: for integer or complex parameters or gradients, and for a traced
      ``trim``.

  Example:
    >>> import jax.numpy as jnp
    >>> from maxgnr_jax.aggregators import trimmed_mean
    >>> tx = trimmed_mean()
    >>> grads = jnp.array([[1.0, 9.0], [2.0, 3.0], [900.0, 5.0]])
    >>> updates, _ = tx.update(grads, tx.init(jnp.zeros(2)))
    >>> updates.tolist()
    [2.0, 5.0]

  References:
    Yin et al., Byzantine-Robust Distributed Learning: Towards Optimal Statistical
    Rates, ICML 2018, Definition 2.
  """
  check_integer("trim", trim, 0)
  skips_zero = skips_zero_gradients(zero_gradients)

  def measure(step: Step, memory: Memory) -> tuple[Any, None]:
    del memory
    if step.num_tasks - 2 * trim < 1:
      raise ValueError(
        f"The trimmed mean needs at least 2 `trim` + 1 tasks, got {step.num_tasks} "
        f"tasks with trim={trim}. Lower `trim` or pass more tasks."
      )
    return step, None

  def choose(step: Step, active: jax.Array, memory: Memory) -> Choice:
    del memory
    number = jnp.sum(active)
    dropped = jnp.minimum(trim, (number - 1) // 2)
    rank = jnp.arange(step.num_tasks)
    kept = (rank >= dropped) & (rank < number - dropped)

    def leaf(grads):
      rows = list(enumerate(grads))
      inactive_last = [jnp.where(active[k], row, jnp.inf) for k, row in rows]
      ascending = _stacked.sorted_over_tasks(jnp.stack(inactive_last))
      total = _stacked.add(
        [jnp.where(kept[k], row, 0) for k, row in enumerate(ascending)]
      )
      # NaN and infinity are extremes that would be dropped. This makes the update NaN,
      # so that the frame finds the task and repeats the step without it.
      notfinite = _stacked.add([jnp.where(active[k], 0 * row, 0) for k, row in rows])
      return total / jnp.sum(kept, dtype=grads.dtype) + notfinite

    return Choice(
      combined=_stacked.apply(leaf, step.grads),
      head_weights=uniform_weights(active, step.dtype),
    )

  method = Method(measure, choose, weighted=False, skips_zero=skips_zero)
  return aggregator(method, num_tasks=num_tasks, shared=shared, unshared=unshared)
