"""`maxgnr` with gradients and parameters of every floating-point dtype."""

import jax
import jax.numpy as jnp
import pytest

from tests.helpers.dtypes import TOLERANCE, assert_follows, dtypes, k_sized
from tests.helpers.examples import (
  algorithm1,
  default_maxgnr,
  example_params,
  follow,
  grads_sequence,
  random_grads,
)

pytestmark = pytest.mark.usefixtures("quick_compilation")


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
  """Shapes and dtypes of updates and states, found by tracing."""
  tx, grads = default_maxgnr(num_tasks), random_grads(params, 2)
  state = jax.eval_shape(tx.init, params)
  for _ in range(2):
    updates, state = jax.eval_shape(tx.update, grads, state, params)
    yield updates, state


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("num_tasks", [None, 2])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_with_float64_enabled_dtypes_follow_the_parameters(dtype, num_tasks):
  for updates, state in shapes_of_two_steps(example_params(dtype), num_tasks):
    assert dtypes((updates, state.momentum, k_sized(state))) == {jnp.dtype(dtype)}
    assert state.count.dtype == jnp.int32


def test_updates_have_the_dtype_of_the_parameters_or_else_of_the_gradients():
  params, grads = example_params(jnp.bfloat16), random_grads(example_params(), 2)
  tx = default_maxgnr(2)
  state = tx.init(params)
  with_params, _ = jax.eval_shape(tx.update, grads, state, params)
  without, _ = jax.eval_shape(tx.update, grads, state)
  assert dtypes(with_params) == {jnp.dtype(jnp.bfloat16)}
  assert dtypes(without) == {jnp.dtype(jnp.float32)}


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
