"""NTKMTL against the authors' code and its definition."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maxgnr_jax.aggregators import ntkmtl, ntkmtl_weights
from tests.helpers.examples import task_gradients
from tests.helpers.weights import weigh

pytestmark = pytest.mark.usefixtures("quick_compilation")
seeds = st.integers(0, 2**32 - 1)
sizes = st.sampled_from([2, 5])  # few, because each is compiled
JACOBIAN = np.array(
  [[1.2, -0.5, 0.3, 2.0], [-0.04, 0.1, 0.02, -0.06], [0.7, 3.1, -8.0, 0.9]]
)
# Weights and update by `NTKMTL.ntkgrad` in methods/weight_methods.py of the GitHub
# repository jianke0604/NTKMTL, in float64.
AUTHORS = {
  0.5: (
    [3.73669728, 71.92660076, 1.03796315],
    [2.33354691, 8.54199721, -5.74416403, 4.09196536],
  ),
  0.75: (
    [7.22323716, 610.00627732, 1.05748181],
    [-14.99212924, 60.66720276, 5.90724222, -21.2021687],
  ),
}


@pytest.mark.parametrize("exponent", AUTHORS)
def test_ntkmtl_agrees_with_the_authors_code(exponent, float64):
  weights, update = AUTHORS[exponent]
  tx = ntkmtl(exponent, num_tasks=3)
  found, state = tx.update(jnp.asarray(JACOBIAN), tx.init(jnp.zeros(4)))
  np.testing.assert_allclose(state.weights, weights, rtol=1e-7)
  np.testing.assert_allclose(found, update, rtol=1e-7)


@given(seed=seeds, num_tasks=sizes)
def test_weighted_gradients_are_as_long_as_all_gradients_together(seed, num_tasks):
  jacobian = task_gradients(seed, num_tasks, decades=8)
  lengths = weigh("ntkmtl", jacobian) * np.linalg.norm(jacobian, axis=1)
  np.testing.assert_allclose(lengths, np.linalg.norm(jacobian), rtol=1e-3)


def test_an_exponent_of_0_sums_the_gradients():
  gramian = jnp.array([[4.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
  weights = ntkmtl_weights(gramian, exponent=0.0)
  np.testing.assert_array_equal(weights, [1.0, 1.0, 0.0])


@pytest.mark.parametrize("exponent", [0.5, 2.0])
def test_weights_beyond_the_range_of_float32_are_its_largest_number(exponent):
  weights = ntkmtl_weights(jnp.diag(jnp.array([1e38, 1e-37])), exponent=exponent)
  assert np.all(np.isfinite(weights))
  expected = min(1e75**exponent, float(np.finfo(np.float32).max))
  assert float(weights[1]) == pytest.approx(expected, rel=1e-3)
