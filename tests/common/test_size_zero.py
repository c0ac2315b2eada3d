"""Arrays of size 0 hold nothing to measure: weights come from the rest."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maxgnr_jax import maxgnr, value_and_flat_task_grads
from tests.helpers.examples import follow, random_grads
from tests.helpers.kinds import of_each_kind
from tests.helpers.methods import METHODS
from tests.helpers.trees import assert_trees_close, assert_trees_equal

pytestmark = pytest.mark.usefixtures("quick_compilation")
NUM_TASKS, NUM_STEPS = 3, 2
PARAMS = {"b": jnp.ones((2, 3)), "c": jnp.ones(4)}
EMPTY = {"a": jnp.ones((0, 8)), "z": {"bias": jnp.ones(0), "kernel": jnp.ones((3, 0))}}
# An array of size 0 beside others, a group of these only, and one without gradient.
GROUPS = {"a": "rest", "b": "rest", "c": "rest", "y": "zero", "z": "empty"}
# These draw for each array what they drop, in the arrays' order.
PER_ARRAY = ("graddrop", "gradient_dropout")


def several_steps(txs, params):
  """Updates and states of several transformations, compiled together."""
  values = {"losses": jnp.array([1.0, 2.0, 3.0]), "kpis": jnp.array([0.2, 0.5, 0.7])}

  @jax.jit
  def step(states, grads):
    return [
      tx.update(g, state, flat_grads=g, **values)
      for tx, state, g in zip(txs, states, grads, strict=True)
    ]

  states = [tx.init(p) for tx, p in zip(txs, params, strict=True)]
  for number in range(NUM_STEPS):
    drawn = random_grads(PARAMS, NUM_TASKS, number)
    grads = [{**zero_grads(p), **drawn} for p in params]
    results = step(states, grads)
    states = [state for _, state in results]
  return results


def zero_grads(params):
  return jax.tree.map(lambda p: jnp.zeros((NUM_TASKS, *p.shape)), params)


def takes(argument):
  """Names of the methods whose factory has an argument."""
  signatures = {name: inspect.signature(METHODS[name].make) for name in METHODS}
  return sorted(name for name in METHODS if argument in signatures[name].parameters)


@pytest.mark.parametrize(
  "name", of_each_kind(sorted(set(METHODS) - set(takes("groups"))))
)
def test_arrays_of_size_zero_beside_others_change_nothing(name):
  tx = METHODS[name].make(num_tasks=NUM_TASKS)
  params = PARAMS | ({"z": EMPTY["z"]} if name in PER_ARRAY else EMPTY)
  (plain, state), (updates, beside) = several_steps([tx, tx], [PARAMS, params])
  assert jax.tree.map(jnp.shape, updates) == jax.tree.map(jnp.shape, params)
  assert_trees_close({name: updates[name] for name in PARAMS}, plain, rtol=1e-4)
  if name != "flat_regions":
    assert_trees_close(beside.weights, state.weights, rtol=1e-4)


@pytest.mark.parametrize("name", of_each_kind(takes("groups")))
def test_a_group_of_size_zero_is_weighted_as_a_group_without_gradient(name):
  make, params = METHODS[name].make, PARAMS | EMPTY | {"y": jnp.ones(2)}
  txs = [make(num_tasks=NUM_TASKS), make(num_tasks=NUM_TASKS, groups=GROUPS)]
  (plain, state), (updates, by_group) = several_steps(txs, [PARAMS, params])
  assert jax.tree.map(jnp.shape, updates) == jax.tree.map(jnp.shape, params)
  assert_trees_close({name: updates[name] for name in PARAMS}, plain, rtol=1e-4)
  empty, rest, zero = np.asarray(by_group.weights)
  np.testing.assert_allclose(rest, state.weights, rtol=1e-4)
  np.testing.assert_array_equal(empty, zero)
  # Without a gradient some methods take equal weights, krum one task, the others none.
  assert np.all(np.isfinite(empty))
  assert np.all(empty >= 0)


@pytest.mark.parametrize("name", takes("shared"))
def test_shared_must_not_select_arrays_of_size_zero_only(name):
  shared = {"a": True, "b": False, "c": False, "z": True}
  tx = METHODS[name].make(num_tasks=NUM_TASKS, shared=shared)
  with pytest.raises(ValueError, match=r"`shared` must .* got only arrays of size 0"):
    tx.init(PARAMS | EMPTY)


def test_the_flat_gradients_shared_must_not_select_arrays_of_size_zero_only():
  def losses(params):
    return jnp.sum(params["b"]), jnp.sum(params["b"] ** 2)

  shared = {"a": True, "b": False, "c": False}
  with pytest.raises(ValueError, match=r"`shared` must .* got only arrays of size 0"):
    value_and_flat_task_grads(losses, shared=shared)(PARAMS | {"a": EMPTY["a"]})
  # As the heads they are perturbed by nothing.
  trunk = {"a": False, "b": True, "c": True}
  run = jax.jit(value_and_flat_task_grads(losses, shared=trunk))
  _, (_, flat) = run(PARAMS | {"a": EMPTY["a"]})
  _, (_, expected) = jax.jit(value_and_flat_task_grads(losses))(PARAMS)
  assert flat.pop("a").shape == (2, 0, 8)
  assert_trees_equal(flat, expected)


def test_a_groups_trunk_must_not_hold_arrays_of_size_zero_only():
  groups = {"a": "mixed", "b": "rest", "c": "mixed"}
  tx = maxgnr(shared={"a": True, "b": True, "c": False}, groups=groups)
  message = "got 'mixed', of which `shared` selects only arrays of size 0"
  with pytest.raises(ValueError, match=message):
    tx.init(PARAMS | {"a": EMPTY["a"]})


@pytest.mark.parametrize("shared", [None, {"a": True, "z": False}])
def test_without_any_number_there_is_nothing_to_measure(shared):
  tx = maxgnr(shared=shared, num_tasks=NUM_TASKS)
  state = tx.init(EMPTY)
  updates, after = tx.update(zero_grads(EMPTY), state)
  assert jax.tree.map(jnp.shape, updates) == jax.tree.map(jnp.shape, EMPTY)
  assert_trees_equal(after, state)


def test_a_narrow_array_of_size_zero_does_not_hide_noise():
  """Noise below the momentum's rounding error is none: that of arrays with numbers."""
  first = random_grads(PARAMS, NUM_TASKS)
  sequence = [first, jax.tree.map(lambda g: 1.01 * g, first)]
  expected = follow(maxgnr(num_tasks=NUM_TASKS), PARAMS, sequence)[-1][1].stats
  narrow = {"a": jnp.ones((0, 8), jnp.bfloat16)}
  sequence = [grads | zero_grads(narrow) for grads in sequence]
  found = follow(maxgnr(num_tasks=NUM_TASKS), PARAMS | narrow, sequence)[-1][1].stats
  assert np.all(expected.noise_norm > 0)
  assert_trees_close(found, expected, rtol=1e-5)
