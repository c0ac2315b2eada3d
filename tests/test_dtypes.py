"""Gradients, parameters and momentum of every floating-point dtype."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maxgnr_jax import maxgnr
from tests.examples import (
  algorithm1,
  default_maxgnr,
  example_params,
  flat,
  follow,
  grads_sequence,
  random_grads,
)

pytestmark = pytest.mark.usefixtures("quick_compilation")
# Unit roundoff, times a few for the sum over tasks and the momentum's history.
TOLERANCE = {jnp.bfloat16: 0.05, jnp.float16: 5e-3, jnp.float32: 1e-4}


def dtypes(tree):
  return {leaf.dtype for leaf in jax.tree.leaves(tree)}


def k_sized(state):
  """What is floating point, and no larger than K×K."""
  return state._replace(momentum=(), count=(), task_count=(), notfinite_count=())


def assert_follows(history, expected, tolerance):
  for (updates, state), step in zip(history, expected, strict=True):
    np.testing.assert_allclose(state.weights, step.weights, atol=tolerance)
    np.testing.assert_allclose(flat(updates), step.update, atol=tolerance)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_each_dtype_is_kept_over_steps_and_follows_algorithm_1(dtype):
  params = example_params(dtype)
  sequence = grads_sequence(params, 3, 5)
  history = follow(default_maxgnr(3), params, sequence)
  for updates, state in history:
    assert dtypes((updates, state.momentum)) == {jnp.dtype(dtype)}
    assert dtypes(k_sized(state)) == {jnp.dtype(jnp.float32)}
  assert_follows(history, algorithm1(sequence), TOLERANCE[dtype])


def shapes_of_two_steps(params, num_tasks):
  """Updates and states as tracing knows them."""
  tx, grads = default_maxgnr(num_tasks), random_grads(params, 2)
  state = jax.eval_shape(tx.init, params)
  for _ in range(2):
    updates, state = jax.eval_shape(tx.update, grads, state, params)
    yield updates, state


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("num_tasks", [None, 2])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_where_float64_is_enabled_the_parameters_decide(dtype, num_tasks):
  for updates, state in shapes_of_two_steps(example_params(dtype), num_tasks):
    assert dtypes((updates, state.momentum, k_sized(state))) == {jnp.dtype(dtype)}
    assert state.count.dtype == jnp.int32


def test_updates_have_the_parameters_dtype_and_without_them_the_gradients():
  params, grads = example_params(jnp.bfloat16), random_grads(example_params(), 2)
  tx = default_maxgnr(2)
  state = tx.init(params)
  with_params, _ = jax.eval_shape(tx.update, grads, state, params)
  without, _ = jax.eval_shape(tx.update, grads, state)
  assert dtypes(with_params) == {jnp.dtype(jnp.bfloat16)}
  assert dtypes(without) == {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_momentum_dtype_is_kept_over_steps_and_changes_little(dtype):
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
  sequence = [jnp.ones((2, 16), jnp.bfloat16)] + 20 * [jnp.zeros((2, 16), jnp.bfloat16)]
  tx = maxgnr(0.999, num_tasks=2, momentum_dtype=jnp.float32)
  _, state = follow(tx, params, sequence)[-1]
  np.testing.assert_allclose(state.momentum, 0.999**20, rtol=1e-4)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_the_first_step_has_no_noise_in_a_narrow_momentum_either(dtype):
  params, grads = example_params(), random_grads(example_params(), 3)
  _, state = follow(maxgnr(num_tasks=3, momentum_dtype=dtype), params, [grads])[-1]
  np.testing.assert_array_equal(state.stats.noise_norm, 0)
  np.testing.assert_array_equal(state.gnr, np.inf)


def assert_leaves_share_one_measurement(dtype_low, dtype_high, tolerance):
  params = {"low": jnp.ones(4, dtype_low), "high": jnp.ones(3, dtype_high)}
  sequence = grads_sequence(params, 3, 3)
  history = follow(default_maxgnr(3), params, sequence)
  for updates, _ in history:
    assert (updates["low"].dtype, updates["high"].dtype) == (dtype_low, dtype_high)
  assert_follows(history, algorithm1(sequence), tolerance)
  return history[-1][1]


def test_leaves_of_bfloat16_and_float32_share_one_measurement():
  state = assert_leaves_share_one_measurement(jnp.bfloat16, jnp.float32, 0.05)
  assert state.weights.dtype == jnp.float32


@pytest.mark.usefixtures("float64")
def test_leaves_of_float32_and_float64_share_one_measurement():
  state = assert_leaves_share_one_measurement(jnp.float32, jnp.float64, 1e-5)
  assert state.weights.dtype == jnp.float64


@pytest.mark.usefixtures("float64")
def test_float64_gradients_may_have_a_float32_momentum():
  params = example_params(jnp.float64)
  sequence = grads_sequence(params, 3, 3)
  history = follow(maxgnr(num_tasks=3, momentum_dtype=jnp.float32), params, sequence)
  assert_follows(history, algorithm1(sequence), 1e-5)
  assert dtypes(k_sized(history[-1][1])) == {jnp.dtype(jnp.float64)}
