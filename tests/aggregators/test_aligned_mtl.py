"""Aligned-MTL against the singular value decomposition of NumPy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.examples import relative_error, task_gradients
from tests.helpers.weights import weigh

pytestmark = pytest.mark.usefixtures("quick_compilation")
seeds = st.integers(0, 2**32 - 1)
sizes = st.sampled_from([2, 3, 5, 10])


@given(seed=seeds, num_tasks=sizes)
def test_aligned_mtl_gives_all_principal_components_the_smallest_singular_value(
  seed, num_tasks
):
  jacobian = task_gradients(seed, num_tasks, decades=8)
  left, singular, right = np.linalg.svd(jacobian, full_matrices=False)
  expected = singular.min() * (left @ right).mean(0)
  update = jacobian.T @ weigh("aligned_mtl", jacobian)
  assert relative_error(update, expected) < 1e-3
