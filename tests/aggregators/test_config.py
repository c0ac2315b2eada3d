"""ConFIG against its definition."""

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
def test_config_has_equal_cosines_and_the_length_of_the_summed_projections(
  seed, num_tasks
):
  jacobian = task_gradients(seed, num_tasks, decades=1)
  update = weigh("config", jacobian) @ jacobian
  direction = update / np.linalg.norm(update)
  cosines = jacobian @ direction / np.linalg.norm(jacobian, axis=1)
  np.testing.assert_allclose(cosines, cosines.mean(), rtol=0, atol=1e-3)
  length = np.sum(jacobian @ direction)
  assert np.linalg.norm(update) == pytest.approx(length, rel=1e-3)


@given(seed=seeds, num_tasks=sizes)
def test_config_has_the_direction_of_imtl_g(seed, num_tasks):
  jacobian = task_gradients(seed, num_tasks, decades=1)
  updates = [weigh(name, jacobian) @ jacobian for name in ("config", "imtl_g")]
  one, other = (update / np.linalg.norm(update) for update in updates)
  assert abs(one @ other) == pytest.approx(1, abs=1e-3)
