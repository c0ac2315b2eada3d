"""Weights that the user chooses."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
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


def test_constant_weights_are_used_as_given():
  grads = grads_sequence(PARAMS, 3, 1)
  updates, state = follow(aggregators.constant_weights([0, 2, -1]), PARAMS, grads)[0]
  expected = [0, 2, -1] @ rows(grads[0])
  np.testing.assert_allclose(flat(updates), expected, rtol=1e-5, atol=1e-6)
  np.testing.assert_array_equal(state.weights, [0, 2, -1])


@pytest.mark.parametrize("weights", [[], 1.0, [[1.0]], [1.0, float("nan")]])
def test_constant_weights_must_be_a_vector_of_finite_numbers(weights):
  with pytest.raises(ValueError, match="`weights` must be a vector"):
    aggregators.constant_weights(weights)


def test_constant_weights_refuse_another_number_of_tasks():
  tx = aggregators.constant_weights([1.0, 2.0])
  with pytest.raises(
    ValueError, match="for 3 tasks, but the state was initialised for 2"
  ):
    tx.update(grads_sequence(PARAMS, 3, 1)[0], tx.init(PARAMS), PARAMS)


def test_constant_weights_can_be_set_in_a_jitted_step():
  tx = optax.inject_hyperparams(aggregators.constant_weights)(jnp.array([1.0, 2.0]))
  grads = grads_sequence(PARAMS, 2, 1)[0]
  state = jax.jit(tx.init)(PARAMS)
  update = jax.jit(tx.update)
  for weights in ([1.0, 2.0], [0.5, -3.0]):
    state = optax.tree.set(state, weights=jnp.array(weights))
    updates, state = update(grads, state, PARAMS)
    np.testing.assert_allclose(flat(updates), weights @ rows(grads), rtol=1e-5)
  assert update._cache_size() == 1
