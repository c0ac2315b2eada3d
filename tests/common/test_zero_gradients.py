"""A task whose gradient is exactly zero is inactive, as if `task_mask` said so."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maxgnr_jax import aggregators, maxgnr
from tests.helpers.examples import first_step
from tests.helpers.kinds import of_each_kind
from tests.helpers.methods import METHODS, make, transformation
from tests.helpers.runs import counts, run, without_counts
from tests.helpers.trees import assert_trees_close

pytestmark = pytest.mark.usefixtures("quick_compilation")
# Methods whose rule looks at neither gradients nor losses: zero is a gradient to them.
INDIFFERENT = {"constant_weights", "equal_weights", "random_weights"}
WIDE = 2000  # more numbers than the sample that is looked at first
LOSSES = jnp.array([1.0, 1.2])


@pytest.mark.parametrize("name", of_each_kind(METHODS))
def test_a_zero_gradient_is_like_a_masked_one(name):
  tx = transformation(name)
  history = np.random.default_rng(0).normal(size=(5, 3, 6))
  history[2:4, 2] = 0
  masks = np.ones((5, 3), bool)
  masks[2:4, 2] = False
  found = run(tx, history)
  expected = run(tx, history, masks)
  if name in INDIFFERENT:
    np.testing.assert_array_equal(counts(found[1], "task_count"), 5)
    np.testing.assert_array_equal(counts(found[1], "zero_count"), 0)
    return
  np.testing.assert_array_equal(counts(found[1], "zero_count"), [0, 0, 2])
  np.testing.assert_array_equal(counts(found[1], "task_count"), [5, 5, 3])
  np.testing.assert_array_equal(counts(found[1], "notfinite_count"), 0)
  np.testing.assert_array_equal(counts(expected[1], "zero_count"), 0)
  assert_trees_close(found[0], expected[0], rtol=1e-5)
  states = (without_counts(state, "zero_count") for _, state in (found, expected))
  assert_trees_close(*states, rtol=1e-5)


TWO_TASKS = [make(METHODS[name], 2) for name in ("maxgnr", "uncertainty")]


@settings(max_examples=20)
@given(place=st.integers(0, WIDE - 1), exponent=st.integers(-30, 0))
def test_a_single_number_is_enough_to_be_active(place, exponent):
  history = np.zeros((1, 2, WIDE))
  history[0, 0], history[0, 1, place] = 1, 10.0**exponent
  for tx in TWO_TASKS:
    _, state = run(tx, history)
    np.testing.assert_array_equal(state.task_count, 1)
    np.testing.assert_array_equal(state.zero_count, 0)


def test_a_masked_task_or_one_that_is_not_finite_is_not_counted_as_zero():
  grads = np.ones((3, 4))
  grads[0], grads[1, 2] = 0, np.nan
  _, state = run(maxgnr(num_tasks=3), grads[None], [[False, True, True]])
  np.testing.assert_array_equal(state.zero_count, 0)
  np.testing.assert_array_equal(state.notfinite_count, [0, 1, 0])
  np.testing.assert_array_equal(state.task_count, [0, 0, 1])


def test_only_what_is_measured_must_be_zero():
  """A task may have no gradient on the trunk, and one in its head."""
  params = {"trunk": jnp.ones(2), "head": jnp.ones(2)}
  grads = {
    "trunk": jnp.array([[1.0, 2.0], [0.0, 0.0]]),
    "head": jnp.array([[0.0, 0.0], [3.0, 4.0]]),
  }
  shared = {"trunk": True, "head": False}
  for make_tx in (maxgnr, aggregators.mgda, aggregators.moco):
    tx = make_tx(num_tasks=2, shared=shared)
    _, state = tx.update(grads, tx.init(params), params)
    np.testing.assert_array_equal(state.zero_count, [0, 1])
  tx = aggregators.gls(num_tasks=2, shared=shared)  # it measures losses alone
  _, state = tx.update(grads, tx.init(params), params, losses=LOSSES)
  np.testing.assert_array_equal(state.zero_count, 0)


DEFINED = {
  "mgda": [0, 0],  # the shortest vector is zero
  "krum": [0, 0],  # zero is nearest to all others
  "trimmed_mean": [1, 1],  # the median of 0, 1, 3 and of 0, 1, 2
}


@pytest.mark.parametrize("name", DEFINED)
def test_an_option_keeps_the_methods_definition(name):
  grads = [[0.0, 0.0], [1.0, 2.0], [3.0, 1.0]]
  make_tx = getattr(aggregators, name)
  updates, state = first_step(make_tx(num_tasks=3, zero_gradients="active"), grads)
  np.testing.assert_allclose(updates, DEFINED[name])
  np.testing.assert_array_equal(state.task_count, 1)
  np.testing.assert_array_equal(state.zero_count, 0)
  updates, _ = first_step(make_tx(num_tasks=3), grads)
  assert np.all(updates > 0)


@pytest.mark.parametrize("name", ["modo", "sdmgrad"])
def test_a_zero_gradient_draws_the_weights_by_definition(name):
  history = np.tile([[1.0, 0.5], [0.0, 0.0]], (30, 1, 1))
  make_tx = getattr(aggregators, name)
  found, _ = run(make_tx(num_tasks=2, zero_gradients="active"), history)
  assert np.linalg.norm(found[-1]) < 0.2 * np.linalg.norm(history[0])
  found, _ = run(make_tx(num_tasks=2), history)
  np.testing.assert_allclose(found[-1], history[0][0], rtol=1e-6)


@pytest.mark.parametrize("name", ["mgda", "krum", "trimmed_mean", "modo", "sdmgrad"])
def test_another_value_of_the_option_is_an_error(name):
  with pytest.raises(ValueError, match=r'"inactive" or "active", got \'absent\''):
    getattr(aggregators, name)(zero_gradients="absent")


@pytest.mark.parametrize("name", ["mgda", "modo", "sdmgrad", "cagrad", "aligned_mtl"])
def test_in_a_group_that_one_task_uses_the_others_are_inactive(name):
  """As with `groups="layer"`, where each head is a group of its own."""
  params = {"head": jnp.ones(2), "trunk": jnp.ones(2)}
  grads = {
    "head": jnp.array([[0.0, 0.0], [3.0, 4.0]]),
    "trunk": jnp.array([[1.0, 0.0], [0.0, 1.0]]),
  }
  tx = getattr(aggregators, name)(num_tasks=2, groups="parameter")
  state = tx.init(params)
  for _ in range(20):
    updates, state = tx.update(grads, state, params)
  np.testing.assert_array_equal(state.zero_count, 0)
  np.testing.assert_array_equal(state.weights[0, 0], 0)
  alone = getattr(aggregators, name)(num_tasks=1)
  head = grads["head"][1:]
  expected, _ = alone.update(head, alone.init(params["head"]))
  assert_trees_close(updates["head"], expected, rtol=1e-5)
