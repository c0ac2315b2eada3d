"""NGDiff against normalised gradients."""

import numpy as np
import pytest

from maxgnr_jax import aggregators
from tests.helpers.examples import first_step, task_gradients

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.mark.parametrize("signs", [(1, -1), (-1, 1, 1)])
def test_ngdiff_adds_signed_unit_gradients(signs):
  jacobian = task_gradients(0, len(signs))
  update, _ = first_step(aggregators.ngdiff(signs), jacobian)
  units = jacobian / np.linalg.norm(jacobian, axis=1, keepdims=True)
  np.testing.assert_allclose(update, np.array(signs) @ units, rtol=1e-4, atol=1e-6)
