"""Properties that several weightings on the Gramian share."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.examples import (
  task_gradients,
)
from tests.helpers.near_the_mean import update_of
from tests.helpers.weights import weigh

pytestmark = pytest.mark.usefixtures("quick_compilation")
seeds = st.integers(0, 2**32 - 1)
sizes = st.sampled_from([2, 3, 5, 10])


@given(seed=seeds, num_tasks=sizes)
@pytest.mark.parametrize("name", ["upgrad", "dualproj", "mgda"])
def test_the_update_conflicts_with_no_gradient(name, seed, num_tasks):
  jacobian = task_gradients(seed, num_tasks)
  update = jacobian.T @ weigh(name, jacobian)
  lengths = np.linalg.norm(jacobian, axis=1) * np.linalg.norm(update)
  assert np.min(jacobian @ update / lengths) > -1e-2


@pytest.mark.parametrize("name", ["cagrad", "conicgrad"])
def test_opposite_gradients_of_equal_length_give_a_zero_update(name):
  _, update = update_of(name, np.array([[3.0, 1.0], [-3.0, -1.0]]), 0.5)
  np.testing.assert_allclose(update, 0, atol=1e-2)
