"""The dtypes of pytrees and states, and the tolerance that each dtype needs."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.helpers.examples import (
  flat,
)

# A few times the unit roundoff, for the sum over tasks and the momentum's history.
TOLERANCE = {jnp.bfloat16: 0.05, jnp.float16: 5e-3, jnp.float32: 1e-4}


def dtypes(tree):
  return {leaf.dtype for leaf in jax.tree.leaves(tree)}


def k_sized(state):
  """The state without counts and momentum: floating-point leaves up to K×K."""
  counts = {"count": (), "task_count": (), "notfinite_count": (), "zero_count": ()}
  return state._replace(momentum=(), **counts)


def assert_follows(history, expected, tolerance):
  for (updates, state), step in zip(history, expected, strict=True):
    np.testing.assert_allclose(state.weights, step.weights, atol=tolerance)
    np.testing.assert_allclose(flat(updates), step.update, atol=tolerance)
