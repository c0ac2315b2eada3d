"""Gradients of many equal columns, on which probabilities can be counted."""

import jax
import jax.numpy as jnp
import numpy as np

SIZE = 20_000
# One number per task, repeated for all parameters; each repetition is drawn separately.
COLUMN = np.array([3.0, -1.0, 0.5])
MANY = jnp.asarray(np.tile(COLUMN[:, None], SIZE), jnp.float32)


def update_of(tx, grads):
  updates, _ = jax.jit(tx.update)(grads, tx.init(grads[0]))
  return np.asarray(updates, np.float64)


def assert_share(hits, probability):
  """Checks a binomial share: within five standard deviations of its probability."""
  deviation = np.sqrt(probability * (1 - probability) / hits.size)
  assert abs(hits.mean() - probability) < 5 * deviation
