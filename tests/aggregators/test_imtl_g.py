"""IMTL-G against its definition."""

import numpy as np
import pytest
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
def test_imtl_g_projects_equally_on_every_gradients_direction(seed, num_tasks):
  jacobian = task_gradients(seed, num_tasks)
  weights = weigh("imtl_g", jacobian)
  update = jacobian.T @ weights
  projections = jacobian @ update / np.linalg.norm(jacobian, axis=1)
  size = np.abs(weights) @ np.linalg.norm(jacobian, axis=1)
  np.testing.assert_allclose(projections, projections.mean(), atol=1e-4 * size)
  assert weights.sum() == pytest.approx(1, abs=1e-3)
