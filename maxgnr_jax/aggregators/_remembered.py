"""Numbers per task that are learned from step to step, some tasks being absent."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from maxgnr_jax.aggregators._base import Step


def shares(step: Step, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Remembered weights of the tasks that are present, in units of their sum.

  What they have together stays when they share it anew, so that absent tasks return to
  the share that they had.

  Args:
    step: Says which tasks are present.
    weights: [K], non-negative and not all 0.

  Returns:
    [K] of sum 1, with zeros for absent tasks, and what to multiply shares by to
    remember them.
  """
  kept = step.among(weights)
  # Tasks that had no weight beside the others begin with equal ones.
  equal = step.among(jnp.full_like(weights, jnp.mean(weights)))
  kept = jnp.where(jnp.any(kept > 0), kept, equal)
  total = jnp.sum(kept)
  return kept / total, total


def learn(
  step: Step,
  optimizer: optax.GradientTransformation,
  slope: jax.Array,
  values: jax.Array,
  state: Any,
) -> tuple[jax.Array, Any]:
  """Moves a number per task by an optimiser; those of absent tasks stay.

  Args:
    step: Says which tasks are present; the slopes of the others may be anything.
    optimizer: What moves them.
    slope: [K], the gradient by ``values``.
    values: [K].
    state: Of ``optimizer``.

  Returns:
    The numbers [K] and the state after the step.
  """
  # Zeros, where the optimiser looks at all numbers at once, as if to clip them.
  moves, after = optimizer.update(step.among(slope), state, step.among(values))
  moved = optax.apply_updates(values, moves)
  return step.remember((moved, after), (values, state))


def softmax_among(present: jax.Array, logits: jax.Array) -> jax.Array:
  """The softmax over the tasks that are ``present`` [K], and 0 for the others."""
  logits = jnp.where(present, logits, -jnp.inf)
  return jnp.where(present, jax.nn.softmax(logits), 0.0)
