"""The mean without the extremes, coordinate by coordinate."""

from typing import Any

import jax.numpy as jnp
import optax

from maxgnr_jax import _stacked
from maxgnr_jax._checks import check_integer
from maxgnr_jax._linalg._active import equal_shares
from maxgnr_jax.aggregators._base import Choice, Step, method


def trimmed_mean(
  trim: int = 1, *, num_tasks: int | None = None
) -> optax.GradientTransformationExtraArgs:
  """The mean of each coordinate over the tasks without its extreme values.

  From federated learning, where some of K workers may send anything. With
  ``trim = (K - 1) / 2`` it is the median.

  Args:
    trim: How many of the largest and how many of the smallest values are left out, at
      least 0 and less than K / 2. In a step with too few tasks, as many as leave at
      least one value: that is the median.
    num_tasks: As in :func:`gramian_method`.

  Returns:
    An :class:`optax.GradientTransformationExtraArgs` with :class:`BaselineState`. The
    update is no weighted sum: ``weights`` are equal.

  Raises:
    ValueError: for a negative ``trim``; at the trace of ``update`` for too few tasks.
    TypeError: for a traced ``trim``.

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

  def choose(step: Step, memory: dict[str, Any]) -> Choice:
    if step.num_tasks - 2 * trim < 1:
      raise ValueError(
        f"The trimmed mean needs at least 2 `trim` + 1 tasks, got {step.num_tasks} "
        f"tasks with trim={trim}."
      )

    number = jnp.sum(step.present)
    left_out = jnp.minimum(trim, (number - 1) // 2)
    place = jnp.arange(step.num_tasks)
    kept = (place >= left_out) & (place < number - left_out)

    def leaf(grads):
      rows = list(enumerate(grads))
      last = [jnp.where(step.present[k], row, jnp.inf) for k, row in rows]
      ascending = _stacked.sorted_over_tasks(jnp.stack(last))
      total = _stacked.add(
        [jnp.where(kept[k], row, 0) for k, row in enumerate(ascending)]
      )
      # NaN and infinity are extremes, too, but not to be left out unseen.
      unseen = _stacked.add([jnp.where(step.present[k], 0 * row, 0) for k, row in rows])
      return total / jnp.sum(kept, dtype=grads.dtype) + unseen

    weights = equal_shares(step.present, step.dtype)
    return Choice(weights, memory, _stacked.apply(leaf, step.grads))

  return method(choose, num_tasks=num_tasks)
