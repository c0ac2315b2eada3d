"""Numbers per task that are learned from step to step, while some are inactive."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from maxgnr_jax._linalg import remember, zero_inactive


def shares(active: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Divides remembered weights among the active tasks.

  Active tasks redistribute only their own total, so that a returning task gets its old
  share back.

  Args:
    active: [K], bool.
    weights: [K], non-negative and not all 0.

  Returns:
    [K], of sum 1 and 0 for inactive tasks; and their total, by which shares are to be
    multiplied before they are remembered.
  """
  kept = zero_inactive(active, weights)
  # Tasks that had no weight beside the others begin with equal ones.
  equal = zero_inactive(active, jnp.full_like(weights, jnp.mean(weights)))
  kept = jnp.where(jnp.any(kept > 0), kept, equal)
  total = jnp.sum(kept)
  return kept / jnp.where(total > 0, total, 1.0), total


def learn(
  active: jax.Array,
  optimizer: optax.GradientTransformation,
  slope: jax.Array,
  values: jax.Array,
  state: Any,
) -> tuple[jax.Array, Any]:
  """Moves a number per active task by an optimiser; those of other tasks stay.

  Args:
    active: [K], bool.
    optimizer: The optimiser that moves them.
    slope: [K], the gradient with respect to ``values``; anything for inactive tasks.
    values: [K].
    state: The optimiser's state.

  Returns:
    The numbers [K] and the optimiser's state after the step.
  """
  # Zeros, where the optimiser looks at all numbers at once, for instance to clip them.
  moves, after = optimizer.update(
    zero_inactive(active, slope), state, zero_inactive(active, values)
  )
  moved = optax.apply_updates(values, moves)
  return remember(active, (moved, after), (values, state))
