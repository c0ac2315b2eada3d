"""Rules of inner products among some of the tasks are those of a smaller problem."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maxgnr_jax import aggregators
from tests.examples import task_gradients

pytestmark = pytest.mark.usefixtures("quick_compilation")
seeds = st.integers(0, 2**32 - 1)
# Few numbers of tasks and of those present, because each is compiled.
sizes, numbers = st.just(6), st.sampled_from([1, 4])
ARGUMENTS = {"cagrad": {"c": 0.5}, "conicgrad": {"c": 0.5}, "fairgrad": {"alpha": 2.0}}
# In units of the largest weight. Aligned-MTL's depend on the smallest eigenvalue.
TOLERANCE = {"aligned_mtl": 0.02}
# A task that cannot gain leaves open which of many updates is the best for it.
UNDETERMINED_BY_ZERO = ("cagrad", "conicgrad")
NAMES = (
  "aligned_mtl",
  "cagrad",
  "config",
  "conicgrad",
  "dualproj",
  "fairgrad",
  "gradient_norm_scaling",
  "imtl_g",
  "mgda",
  "nash_mtl",
  "upgrad",
)


@functools.cache
def rule(name, **arguments):
  weights = getattr(aggregators, f"{name}_weights")
  return jax.jit(
    lambda gramian, present: weights(gramian, present=present, **arguments)
  )


def weigh(name, jacobian, present, **arguments):
  gramian = jnp.asarray(jacobian @ jacobian.T, jnp.float32)
  found = rule(name, **arguments)(gramian, jnp.asarray(present))
  return np.asarray(found, np.float64)


def some_tasks(seed, num_tasks, number):
  """Which are present."""
  return np.random.default_rng(seed).permutation(np.arange(num_tasks) < number)


@pytest.mark.parametrize("name", NAMES)
@given(
  seed=seeds,
  num_tasks=sizes,
  number=numbers,
  exponent=st.integers(-6, 6),
  zero=st.booleans(),
)
def test_weights_are_those_of_the_present_tasks_alone(
  name, seed, num_tasks, number, exponent, zero
):
  jacobian = task_gradients(seed, num_tasks) * 10.0**exponent
  present = some_tasks(seed, num_tasks, number)
  if zero and name not in UNDETERMINED_BY_ZERO:  # the first task that is present
    jacobian[np.argmax(present)] = 0
  arguments = ARGUMENTS.get(name, {})
  weights = weigh(name, jacobian, present, **arguments)
  alone = weigh(name, jacobian[present], np.ones(number, bool), **arguments)
  np.testing.assert_array_equal(weights[~present], 0)
  # Weights of short gradients are long, and as inexact.
  norm = np.linalg.norm(jacobian[present], axis=1)
  norm = np.where(norm > 0, norm, 1.0)
  np.testing.assert_allclose(
    weights[present] * norm,
    alone * norm,
    rtol=0,
    atol=TOLERANCE.get(name, 1e-3) * np.abs(alone * norm).max(),
  )


@pytest.mark.parametrize("name", NAMES)
def test_products_of_absent_tasks_are_not_looked_at(name):
  jacobian = task_gradients(0, 4)
  present = np.array([True, False, True, True])
  arguments = ARGUMENTS.get(name, {})
  expected = weigh(name, jacobian, present, **arguments)
  jacobian[1] = np.nan
  found = weigh(name, jacobian, present, **arguments)
  np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("num_byzantine", "num_selected"), [(0, 1), (1, 2), (2, 4)])
def test_krum_chooses_among_the_present_tasks(num_byzantine, num_selected):
  arguments = {"num_byzantine": num_byzantine, "num_selected": num_selected}
  for seed in range(20):
    jacobian, present = task_gradients(seed, 7, decades=1), some_tasks(seed, 7, 5)
    weights = weigh("krum", jacobian, present, **arguments)
    alone = weigh("krum", jacobian[present], np.ones(5, bool), **arguments)
    np.testing.assert_array_equal(weights[present], alone)
    np.testing.assert_array_equal(weights[~present], 0)


@pytest.mark.parametrize(
  ("present", "num_byzantine", "num_selected", "expected"),
  [
    ([1, 1, 1, 1, 1], 2, 1, [0, 1, 0, 0, 0]),
    # Too few for their sum of distances: the nearest one counts.
    ([1, 0, 1, 1, 1], 2, 1, [0, 0, 1, 0, 0]),
    ([1, 0, 1, 0, 1], 0, 1, [1, 0, 0, 0, 0]),
    ([1, 0, 0, 0, 1], 0, 2, [0.5, 0, 0, 0, 0.5]),
    ([0, 0, 0, 0, 1], 2, 1, [0, 0, 0, 0, 1]),
    # Too few to choose as many.
    ([1, 0, 0, 0, 1], 2, 3, [0.5, 0, 0, 0, 0.5]),
  ],
)
def test_krum_of_few_tasks(present, num_byzantine, num_selected, expected):
  jacobian = np.array([[1.0], [2.0], [2.1], [2.3], [-50.0]])
  weights = weigh(
    "krum",
    jacobian,
    np.array(present, bool),
    num_byzantine=num_byzantine,
    num_selected=num_selected,
  )
  np.testing.assert_array_equal(weights, expected)


def test_pcgrad_of_some_tasks_may_come_out_as_of_these_alone():
  angles = np.radians([0, 30, 110, 230, 170])
  jacobian = np.stack([np.cos(angles), np.sin(angles)], axis=1)
  present = np.array([True, False, True, True, False])
  gramian = jnp.asarray(jacobian @ jacobian.T, jnp.float32)
  keys = jax.random.split(jax.random.key(0), 200)

  def outcomes(gramian, present):
    weigh = functools.partial(aggregators.pcgrad_weights, gramian, present=present)
    weights = np.asarray(jax.jit(jax.vmap(weigh))(keys))
    return weights, {tuple(w) for w in np.round(weights[:, present], 3)}

  weights, found = outcomes(gramian, present)
  _, expected = outcomes(gramian[present][:, present], np.ones(3, bool))
  assert found == expected
  assert len(found) > 1
  np.testing.assert_array_equal(weights[:, ~present], 0)


@pytest.mark.parametrize("make", [aggregators.pcgrad, aggregators.gradvac])
def test_two_tasks_take_turns_in_one_order_only_and_are_as_if_alone(make):
  present = np.array([False, True, False, True, False])
  mask = jnp.asarray(present)
  some, two = make(num_tasks=5), make(num_tasks=2)
  step = jax.jit(lambda grads, state: some.update(grads, state, task_mask=mask))
  right_step = jax.jit(lambda grads, state: two.update(grads, state))
  state, right_state = some.init(jnp.zeros(10)), two.init(jnp.zeros(10))
  for seed in range(5):
    grads = jnp.asarray(task_gradients(seed, 5), jnp.float32)
    updates, state = step(grads, state)
    expected, right_state = right_step(grads[mask], right_state)
    np.testing.assert_allclose(updates, expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(
      state.weights[mask], right_state.weights, rtol=1e-3, atol=1e-4
    )


def test_goals_of_gradvac_wait_for_both_tasks():
  tx = aggregators.gradvac(beta=0.5, num_tasks=4)
  grads = jnp.asarray(task_gradients(0, 4), jnp.float32)
  step = jax.jit(lambda grads, state, mask: tx.update(grads, state, task_mask=mask))
  _, before = step(grads, tx.init(grads[0]), jnp.ones(4, bool))
  present = np.array([True, False, True, True])
  _, after = step(grads[::-1], before, jnp.asarray(present))
  both = present[:, None] & present[None, :] & ~np.eye(4, dtype=bool)
  moved = np.asarray(before.memory["goals"] != after.memory["goals"])
  np.testing.assert_array_equal(moved, both)
