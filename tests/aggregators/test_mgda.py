"""MGDA against SciPy's non-negative least squares."""

import numpy as np
import pytest
import scipy.optimize
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.examples import (
  task_gradients,
)
from tests.helpers.weights import weigh

pytestmark = pytest.mark.usefixtures("quick_compilation")
seeds = st.integers(0, 2**32 - 1)
sizes = st.sampled_from([2, 3, 5, 10])


@given(seed=seeds, num_tasks=sizes)
def test_mgda_finds_the_shortest_vector_in_the_convex_hull(seed, num_tasks):
  jacobian = task_gradients(seed, num_tasks)
  unit = np.linalg.norm(jacobian, axis=1).min()
  # min ‖Jᵀ x‖² + (Σ x - 1)² over x ≥ 0 is a multiple of the solution.
  system = np.vstack([jacobian.T / unit, np.ones(num_tasks)])
  x, _ = scipy.optimize.nnls(system, np.append(np.zeros(len(jacobian.T)), 1.0))
  shortest = np.linalg.norm(jacobian.T @ (x / x.sum()))
  weights = weigh("mgda", jacobian)
  assert weights.min() >= 0
  assert weights.sum() == pytest.approx(1, abs=1e-6)
  assert np.linalg.norm(jacobian.T @ weights) <= 1.001 * shortest + 1e-4 * unit


def test_mgda_weights_of_opposite_gradients_cancel_them():
  weights = weigh("mgda", np.array([[2.0, 0.0], [-1.0, 0.0]]))
  np.testing.assert_allclose(weights, [1 / 3, 2 / 3], atol=1e-3)


def test_mgda_gives_all_weight_to_a_zero_gradient():
  jacobian = np.array([[2.0, 0.0], [0.0, 0.0], [1.0, 1.0]])
  np.testing.assert_array_equal(weigh("mgda", jacobian), [0, 1, 0])
