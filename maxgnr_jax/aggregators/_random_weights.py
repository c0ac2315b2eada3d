"""RLW, random loss weighting."""

from typing import Any

import jax
import optax

from maxgnr_jax.aggregators._base import Choice, Step, key_memory, method
from maxgnr_jax.aggregators._remembered import softmax_among


def random_weights(
  *, num_tasks: int | None = None, seed: int | jax.Array = 0
) -> optax.GradientTransformationExtraArgs:
  """Weights drawn anew in every step, a softmax of normal numbers.

  What any other method should beat.

  Args:
    num_tasks: As in :func:`gramian_method`.
    seed: Of the weights, or a PRNG key.

  Returns:
    An :class:`optax.GradientTransformationExtraArgs` with :class:`BaselineState`, whose
    memory holds the ``key`` of the next step.

  Example:
    >>> import jax.numpy as jnp
    >>> from maxgnr_jax.aggregators import random_weights
    >>> tx = random_weights(seed=1)
    >>> _, state = tx.update(jnp.eye(3), tx.init(jnp.zeros(3)))
    >>> f"{state.weights.sum():.1f}"
    '1.0'

  References:
    Lin et al., Reasonable Effectiveness of Random Weighting: A Litmus Test for
    Multi-Task Learning, TMLR 2022, with the normal distribution.
  """

  def choose(step: Step, memory: dict[str, Any]) -> Choice:
    key, now = jax.random.split(memory["key"])
    drawn = jax.random.normal(now, (step.num_tasks,), step.dtype)
    return Choice(softmax_among(step.present, drawn), {"key": key})

  return method(choose, key_memory(seed), num_tasks=num_tasks)
