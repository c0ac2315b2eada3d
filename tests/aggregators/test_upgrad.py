"""UPGrad against projections on the dual cone by SciPy."""

import numpy as np
import pytest
import scipy.optimize
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.examples import (
  relative_error,
  task_gradients,
)
from tests.helpers.weights import weigh

pytestmark = pytest.mark.usefixtures("quick_compilation")
seeds = st.integers(0, 2**32 - 1)
sizes = st.sampled_from([2, 3, 5, 10])


def projected(jacobian, preference):
  """Weights of the projection on the dual cone: min ‖Jᵀ w‖ over w ≥ preference."""
  excess, _ = scipy.optimize.nnls(jacobian.T, -jacobian.T @ preference)
  return preference + excess


@given(seed=seeds, num_tasks=sizes)
def test_upgrad_is_the_mean_of_the_projected_gradients(seed, num_tasks):
  jacobian = task_gradients(seed, num_tasks)
  expected = sum(projected(jacobian, p) for p in np.eye(num_tasks) / num_tasks)
  error = relative_error(jacobian.T @ weigh("upgrad", jacobian), jacobian.T @ expected)
  assert error < 1e-4
