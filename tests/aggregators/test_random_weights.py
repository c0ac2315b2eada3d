"""The distribution of random weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maxgnr_jax import aggregators

pytestmark = pytest.mark.usefixtures("quick_compilation")


def test_random_weights_are_the_softmax_of_independent_normal_numbers():
  tx, steps = aggregators.random_weights(num_tasks=3), 2000

  def step(state, _):
    _, state = tx.update(jnp.ones((3, 1)), state)
    return state, state.weights

  _, weights = jax.lax.scan(step, tx.init(jnp.ones(1)), length=steps)
  weights = np.asarray(weights, np.float64)
  np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-5)
  # The difference of two normal numbers is normal with variance 2.
  ratios = np.log(weights[:, 0] / weights[:, 1])
  assert abs(ratios.mean()) < 5 * np.sqrt(2 / steps)
  assert abs(ratios.var() / 2 - 1) < 5 * np.sqrt(2 / steps)
  assert abs(np.corrcoef(ratios[1:], ratios[:-1])[0, 1]) < 5 / np.sqrt(steps)
  assert len(np.unique(weights[:, 0])) == steps
