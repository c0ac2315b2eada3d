"""The mean without the extremes, coordinate by coordinate."""

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


def trimmed_mean(
  trim: int = 1, *, num_tasks: int | None = None, shared: Shared = None
) -> optax.GradientTransformationExtraArgs:
  """The mean of each coordinate over the tasks without its extreme values.

  From federated learning, where some of K workers may send anything. With
  ``trim = (K - 1) / 2`` it is the median.

  Args:
    trim: How many of the largest and how many of the smallest values are left out, at
      least 0 and less than K / 2. In a step with too few tasks, as many as leave at
      least one value: that is the median.
    num_tasks: K, at least 1. By default it is taken from the first gradients, which
      changes the shapes of the state at the first step.
    shared: Selects the trunk, where the rule applies: a pytree of bools like the
      parameters (or a prefix of it), or a function from the parameters to one. Other
      parameters get the mean of the gradients.
      Default: all parameters.

  Returns:
    An :class:`optax.GradientTransformationExtraArgs` with :class:`AggregatorState`. The
    update is no weighted sum of the gradients: ``weights`` is None.

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

  def measure(step: Step, memory: Memory) -> tuple[Any, None]:
    del memory
    if step.num_tasks - 2 * trim < 1:
      raise ValueError(
        f"The trimmed mean needs at least 2 `trim` + 1 tasks, got {step.num_tasks} "
        f"tasks with trim={trim}."
      )
    return step, None

  def choose(step: Step, active: jax.Array, memory: Memory) -> Choice:
    del memory
    number = jnp.sum(active)
    left_out = jnp.minimum(trim, (number - 1) // 2)
    place = jnp.arange(step.num_tasks)
    kept = (place >= left_out) & (place < number - left_out)

    def leaf(grads):
      rows = list(enumerate(grads))
      last = [jnp.where(active[k], row, jnp.inf) for k, row in rows]
      ascending = _stacked.sorted_over_tasks(jnp.stack(last))
      total = _stacked.add(
        [jnp.where(kept[k], row, 0) for k, row in enumerate(ascending)]
      )
      # NaN and infinity are extremes, too, but must not be left out unnoticed.
      unseen = _stacked.add([jnp.where(active[k], 0 * row, 0) for k, row in rows])
      return total / jnp.sum(kept, dtype=grads.dtype) + unseen

    return Choice(
      combined=_stacked.apply(leaf, step.grads),
      head_weights=uniform_weights(active, step.dtype),
    )

  method = Method(measure, choose, weighted=False)
  return aggregator(method, num_tasks=num_tasks, shared=shared)
