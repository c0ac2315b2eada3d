"""The momentum may have another dtype than the gradients."""

import jax.numpy as jnp
import numpy as np
import pytest

from maxgnr_jax import maxgnr
from tests.helpers.dtypes import TOLERANCE, assert_follows, dtypes, k_sized
from tests.helpers.examples import (
  algorithm1,
  example_params,
  follow,
  grads_sequence,
  random_grads,
)

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_momentum_dtype_is_kept_over_steps_and_changes_results_little(dtype):
  params = example_params()
  sequence = grads_sequence(params, 3, 5)
  tx = maxgnr(num_tasks=3, momentum_dtype=dtype)
  assert dtypes(tx.init(params).momentum) == {jnp.dtype(dtype)}
  history = follow(tx, params, sequence)
  for updates, state in history:
    assert dtypes(state.momentum) == {jnp.dtype(dtype)}
    assert dtypes((updates, k_sized(state))) == {jnp.dtype(jnp.float32)}
  assert_follows(history, algorithm1(sequence), TOLERANCE[dtype])


def test_a_wider_momentum_than_the_gradients_keeps_small_changes():
  params = jnp.ones(16, jnp.bfloat16)
  # At γ = 0.999 each step moves the momentum by less than bfloat16 resolves.
  ones = jnp.ones((2, 16), jnp.bfloat16)
  sequence = [ones] + 20 * [2 * ones]
  tx = maxgnr(0.999, num_tasks=2, momentum_dtype=jnp.float32)
  _, state = follow(tx, params, sequence)[-1]
  np.testing.assert_allclose(state.momentum, 2 - 0.999**20, rtol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_the_first_step_has_no_noise_with_a_narrow_momentum(dtype):
  params, grads = example_params(), random_grads(example_params(), 3)
  _, state = follow(maxgnr(num_tasks=3, momentum_dtype=dtype), params, [grads])[-1]
  np.testing.assert_array_equal(state.stats.noise_norm, 0)
  np.testing.assert_array_equal(state.gnr, np.inf)


@pytest.mark.usefixtures("float64")
def test_float64_gradients_may_have_a_float32_momentum():
  params = example_params(jnp.float64)
  sequence = grads_sequence(params, 3, 3)
  history = follow(maxgnr(num_tasks=3, momentum_dtype=jnp.float32), params, sequence)
  assert_follows(history, algorithm1(sequence), 1e-5)
  assert dtypes(k_sized(history[-1][1])) == {jnp.dtype(jnp.float64)}
