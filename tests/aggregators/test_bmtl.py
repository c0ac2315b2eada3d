"""BMTL against its formula in NumPy."""

import numpy as np
import pytest

from maxgnr_jax import aggregators
from tests.helpers.loss_sequence import LOSSES, NUM_TASKS, assert_weights

pytestmark = pytest.mark.usefixtures("quick_compilation", "float64")


def test_bmtl_weights_are_normalised_derivatives_of_exponentials():
  slopes = np.exp(LOSSES / 5.0) / 5.0
  expected = slopes / slopes.sum(1, keepdims=True)
  assert_weights(aggregators.bmtl(5.0, num_tasks=NUM_TASKS), expected)
