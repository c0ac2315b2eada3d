"""Gradient norm scaling against its definition."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.examples import task_gradients
from tests.helpers.weights import weigh

pytestmark = pytest.mark.usefixtures("quick_compilation")
seeds = st.integers(0, 2**32 - 1)
sizes = st.sampled_from([2, 5])  # few, because each is compiled


@given(seed=seeds, num_tasks=sizes)
def test_gradient_norm_scaling_gives_every_gradient_the_length_of_their_sum(
  seed, num_tasks
):
  jacobian = task_gradients(seed, num_tasks)
  weights = weigh("gradient_norm_scaling", jacobian)
  expected = np.linalg.norm(jacobian.sum(0))
  np.testing.assert_allclose(
    weights * np.linalg.norm(jacobian, axis=1), expected, rtol=1e-3
  )
