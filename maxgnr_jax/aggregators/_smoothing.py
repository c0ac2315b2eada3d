"""An average of the weights over the steps."""

import jax
import jax.numpy as jnp

from maxgnr_jax._linalg import (
  active_softmax,
  corrected_decay,
  num_active,
  zero_inactive,
)

# A weight counts as at least this share of the task's average so far.
LEAST_SHARE = 1e-3
# Logarithms of averages span at most this much, so that no weight becomes 0 in float32.
MOST_SPREAD = 80.0


def smooth(
  weights: jax.Array,
  average: jax.Array,
  decay: jax.Array,
  count: jax.Array,
  active: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """Averages the logarithms of the weights over the steps.

  What is averaged does not depend on a factor that all weights of a step share. So a
  task that comes back after a while is weighed against the others as before.

  Args:
    weights: [K], 0 for inactive tasks.
    average: [K], the average before the step.
    decay: [], the decay rate of the average, in [0, 1).
    count: [K], the number of steps before this one in which each task was active.
    active: [K], bool.

  Returns:
    Weights with the same signs and the same sum of magnitudes; and the average after
    the step, in which that of inactive tasks is as it was.
  """
  dtype = weights.dtype
  magnitude = jnp.abs(weights)
  total = jnp.sum(magnitude)
  known, positive = active & (count > 0), active & (magnitude > 0)
  logs = jnp.log(jnp.where(positive, magnitude, 1.0))
  # The factor that the weights of this step share.
  compared = known & positive
  factor = jnp.sum(jnp.where(compared, logs - average, 0.0))
  logs -= factor / num_active(compared, dtype)
  # Weights of 0 have no logarithm. In a task's first step they count as a share of the
  # mean.
  mean = jnp.sum(jnp.where(positive, logs, 0.0)) / num_active(positive, dtype)
  share = jnp.log(jnp.asarray(LEAST_SHARE, dtype))
  least = share + jnp.where(known, average, mean)
  bounded = positive & (~known | (logs > least))
  logs = jnp.where(bounded, logs, least)
  keep = corrected_decay(decay, count.astype(dtype))
  after = keep * average + (1.0 - keep) * logs
  top = jnp.max(jnp.where(active, after, -jnp.inf))
  after = jnp.maximum(after, top - MOST_SPREAD)
  after = jnp.where(active & (total > 0), after, average)
  smoothed = jnp.where(weights < 0, -total, total) * active_softmax(active, after)
  return zero_inactive(active, smoothed), after
