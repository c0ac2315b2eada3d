"""GLS against the derivatives of the geometric mean."""

import numpy as np
import pytest

from maxgnr_jax import aggregators
from tests.helpers.loss_sequence import NUM_TASKS, assert_weights_are_derivatives

pytestmark = pytest.mark.usefixtures("quick_compilation", "float64")


def test_gls_weights_are_the_derivatives_of_the_geometric_mean():
  assert_weights_are_derivatives(
    aggregators.gls(num_tasks=NUM_TASKS),
    lambda losses: np.prod(losses) ** (1 / len(losses)),
  )
