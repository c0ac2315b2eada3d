"""Equal weights are the mean gradient."""

import numpy as np
import pytest

from maxgnr_jax import aggregators
from tests.helpers.examples import (
  example_params,
  flat,
  follow,
  grads_sequence,
  rows,
)

pytestmark = pytest.mark.usefixtures("quick_compilation")
PARAMS = example_params()


def test_equal_weights_give_the_mean_gradient():
  grads = grads_sequence(PARAMS, 3, 1)
  updates, _ = follow(aggregators.equal_weights(), PARAMS, grads)[0]
  np.testing.assert_allclose(
    flat(updates), rows(grads[0]).mean(0), rtol=1e-5, atol=1e-6
  )
