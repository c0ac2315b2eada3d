"""`gramian_method` with a weighting that the user writes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maxgnr_jax import aggregators
from tests.helpers.examples import (
  example_params,
  flat,
  grads_sequence,
  rows,
)

pytestmark = pytest.mark.usefixtures("quick_compilation")
PARAMS = example_params()


def test_a_weighting_sees_the_gramian_of_the_trunk():
  seen = []

  def weighting(gramian):
    jax.debug.callback(seen.append, gramian)
    return jnp.ones(len(gramian))

  shared = {"trunk": True, "head": False}
  tx = aggregators.gramian_method(weighting, shared=shared)
  grads = grads_sequence(PARAMS, 3, 1)[0]
  updates, _ = tx.update(grads, tx.init(PARAMS), PARAMS)
  jax.effects_barrier()
  trunk = rows(grads["trunk"])
  np.testing.assert_allclose(seen[0], trunk @ trunk.T, rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(flat(updates), rows(grads).sum(0), rtol=1e-5, atol=1e-5)


def test_a_weighting_must_return_one_weight_per_task():
  tx = aggregators.gramian_method(lambda gramian: jnp.ones(2))
  with pytest.raises(ValueError, match=r"one weight per task, shape \(3,\), got shape"):
    tx.update(grads_sequence(PARAMS, 3, 1)[0], tx.init(PARAMS), PARAMS)
