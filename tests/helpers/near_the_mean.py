"""Methods that stay near the mean gradient: their updates and gains, in float64."""

import chex
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

from tests.helpers.weights import weigh

# K and D: few of them, because each K is compiled.
full_rank = st.sampled_from([(2, 4), (5, 10)])


def update_of(name, jacobian, c):
  """The weights and the update that the method chooses; all must be finite."""
  weights = weigh(name, jacobian, jnp.float32(c))
  chex.assert_tree_all_finite(weights)
  return weights, weights @ jacobian


def length(vector):
  return np.linalg.norm(vector)


def unit_of_gain(jacobian):
  return length(jacobian.mean(0)) * np.linalg.norm(jacobian, axis=1).max()
