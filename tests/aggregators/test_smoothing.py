"""The average of the weights' logarithms, against float64 and its properties."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maxgnr_jax import aggregator_state, aggregators, maxgnr
from maxgnr_jax.aggregators._smoothing import LEAST_SHARE, smooth
from tests.helpers.trees import assert_trees_close

pytestmark = pytest.mark.usefixtures("quick_compilation")
RHO = 0.8
SEEDS = st.integers(0, 2**32 - 1)


@functools.partial(jax.jit, static_argnames="decay")
def smoothed(weights, active, decay=RHO):
  """The weights [T, K] of T steps, of which ``active`` [T, K] take part."""

  def step(carry, inputs):
    average, count = carry
    weights, active = inputs
    weights = jnp.where(active, weights, 0.0)
    decay_ = jnp.asarray(decay, weights.dtype)
    result, average = smooth(weights, average, decay_, count, active)
    return (average, count + active.astype(jnp.int32)), result

  tasks = weights.shape[1]
  start = (jnp.zeros(tasks, weights.dtype), jnp.zeros(tasks, jnp.int32))
  return jax.lax.scan(step, start, (weights, active))[1]


def draw(seed, steps=12, tasks=4, decades=6.0):
  rng = np.random.default_rng(seed)
  logs = rng.uniform(-decades, decades, tasks) + rng.normal(size=(steps, tasks))
  weights = np.exp(logs - logs.max(axis=1, keepdims=True))
  return weights / weights.sum(axis=1, keepdims=True)


def always(weights):
  return np.ones(weights.shape, bool)


def run(weights, active=None, decay=RHO):
  active = always(weights) if active is None else active
  return np.asarray(smoothed(jnp.asarray(weights, jnp.float32), active, decay))


def reference(weights, decay):
  """Bias-corrected averages of logarithms in float64, normalised."""
  average, result = np.zeros(weights.shape[1]), []
  for step, row in enumerate(weights, start=1):
    average = decay * average + (1 - decay) * np.log(row)
    exact = np.exp(average / (1 - decay**step))
    result.append(row.sum() * exact / exact.sum())
  return np.array(result)


@given(SEEDS, st.sampled_from([0.0, 0.5, 0.9, 0.99]))
def test_it_is_the_average_of_logarithms(seed, decay):
  weights = draw(seed)
  actual = run(weights, decay=decay)
  np.testing.assert_allclose(actual, reference(weights, decay), rtol=2e-4, atol=0)


@given(SEEDS)
def test_weights_that_hold_still_are_not_changed(seed):
  weights = np.tile(draw(seed, steps=1) * [1, -1, 1, -1], (6, 1))
  np.testing.assert_allclose(run(weights), weights, rtol=1e-4, atol=0)


@given(SEEDS, st.lists(st.floats(-12, 12), min_size=4, max_size=4))
def test_the_scale_of_a_loss_does_not_matter(seed, decades):
  """A loss that is c times as large gets 1/c of the weight, all others being equal."""
  rng = np.random.default_rng(seed)
  weights, active = draw(seed), rng.uniform(size=(12, 4)) < 0.7
  active[0] = True  # tasks that never met cannot be compared
  scale = 10.0 ** np.array(decades)
  others = weights / scale
  totals = (weights * active).sum(1), (others * active).sum(1)
  some = active.any(axis=1)
  ratio = np.divide(*totals, where=some, out=np.ones(12))
  first, second = run(weights, active), run(others * ratio[:, None], active)
  expected = first / scale
  factor = second.sum(1, keepdims=True) / np.where(
    some[:, None], expected.sum(1, keepdims=True), 1.0
  )
  np.testing.assert_allclose(second, expected * factor, rtol=1e-3, atol=0)


@given(SEEDS)
def test_an_absent_task_comes_back_with_its_average(seed):
  weights = np.tile(draw(seed, steps=1), (9, 1))
  active = always(weights)
  active[3:6, 1] = False
  # In the meantime the weights of the others add up to 1 without it.
  there = np.where(active, weights, 0.0)
  there /= there.sum(axis=1, keepdims=True)
  actual = run(there, active)
  np.testing.assert_allclose(actual, there, rtol=1e-4, atol=0)


@given(SEEDS)
def test_weights_of_zero_fall_and_rise_again(seed):
  weights = np.tile(draw(seed, steps=1, decades=3), (60, 1))
  usual = weights[0]
  weights[20:25, 0] = 0.0
  actual = run(weights)
  np.testing.assert_allclose(actual.sum(axis=1), weights.sum(axis=1), rtol=1e-5)
  relative = actual[:, 0] / actual[:, 1]
  falls = relative[20:25] / relative[19:24]
  np.testing.assert_allclose(falls, LEAST_SHARE ** (1 - RHO), rtol=2e-2)
  np.testing.assert_allclose(relative[-1], usual[0] / usual[1], rtol=0.1)


def test_weights_that_stay_at_zero_stay_positive():
  weights = np.zeros((400, 2))
  weights[:, 0] = 1.0
  actual = run(weights)
  assert (actual > 0).all()
  assert actual[-1, 1] < 1e-30


def test_a_first_weight_of_zero_is_a_thousandth_of_the_mean():
  expected = [[1 / 1.001, 1e-3 / 1.001]]
  np.testing.assert_allclose(run(np.array([[1.0, 0.0]])), expected, rtol=1e-5)


def test_no_active_task_changes_nothing():
  weights = np.tile([[0.25, 0.75]], (3, 1))
  active = always(weights)
  active[1] = False
  expected = np.where(active, weights, 0.0)
  np.testing.assert_allclose(run(weights, active), expected, rtol=1e-5)


def test_it_has_derivatives():
  weights = jnp.array([[0.2, 0.8, 0.0], [0.0, 0.5, 0.5]])

  def total(weights):
    return jnp.sum(smoothed(weights, always(weights)) * jnp.arange(3.0)[None])

  assert jnp.isfinite(jax.grad(total)(weights)).all()


@pytest.mark.parametrize("factory", [maxgnr, aggregators.mgda])
def test_the_decay_may_be_a_schedule(factory):
  params, rng = jnp.zeros(5), np.random.default_rng(0)

  def schedule(count):
    return jnp.where(count < 1, 0.9, 0.0)

  scheduled = optax.inject_hyperparams(factory)(smoothing=schedule, num_tasks=2)
  plain = factory(num_tasks=2)
  state, expected = scheduled.init(params), plain.init(params)
  for _ in range(3):
    grads = jnp.asarray(rng.normal(size=(2, 5)), jnp.float32)
    _, state = scheduled.update(grads, state, params)
    _, expected = plain.update(grads, expected, params)
  weights = aggregator_state(state).weights
  assert_trees_close(weights, expected.weights, rtol=1e-3, atol=1e-3)


def test_the_gnr_is_that_of_the_weights_in_the_state():
  from maxgnr_jax import task_gnr

  params, rng = jnp.zeros(6), np.random.default_rng(1)
  tx = maxgnr(num_tasks=3, smoothing=0.9)
  state = tx.init(params)
  for _ in range(4):
    grads = jnp.asarray(rng.normal(size=(3, 6)), jnp.float32)
    updates, state = tx.update(grads, state, params)
    assert_trees_close(updates, state.weights @ grads, rtol=1e-5, atol=1e-6)
  assert_trees_close(state.gnr, task_gnr(state.weights, state.stats), rtol=1e-5)
  alone = maxgnr(num_tasks=3)
  unsmoothed = alone.init(params)._replace(
    momentum=state.momentum, task_count=state.task_count
  )
  _, unsmoothed = alone.update(grads, unsmoothed, params)
  assert jnp.abs(unsmoothed.weights - state.weights).max() > 1e-3
