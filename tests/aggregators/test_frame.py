"""What the frame promises for every aggregator: see `aggregators/_base.py`."""

import functools
import inspect

import chex
import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from maxgnr_jax import (
  aggregators,
  diagnostics,
  group_names,
  maxgnr,
  value_and_combined_grad,
)
from maxgnr_jax.aggregators import Choice, Method, aggregator
from tests.helpers.kinds import of_each_kind

pytestmark = pytest.mark.usefixtures("quick_compilation")

NUM_TASKS = 3
PARAMS = {
  "trunk": {"kernel": jnp.ones((2, 3)), "bias": jnp.zeros(3)},
  "head": {"kernel": jnp.ones((3, 2))},
}
VALUES = {"losses": jnp.array([1.0, 2.0, 3.0]), "kpis": jnp.array([0.2, 0.5, 0.7])}
SGD = optax.sgd(0.1)  # `optax.adam` needs JAX's default promotion of dtypes
NEEDED = {
  "constant_weights": {"weights": [1.0, 0.5, 2.0]},
  "dwa": {"steps_per_epoch": 1},
  "excess_mtl": {"step_size": 0.1},
  "famo": {"optimizer": SGD},
  "gradnorm": {"optimizer": SGD},
  "igb": {"steps_per_epoch": 1},
  "imtl_l": {"optimizer": SGD},
  "ngdiff": {"signs": [1, 1, -1]},
  "uncertainty": {"optimizer": SGD},
}


def is_factory(name):
  function = getattr(aggregators, name)
  return inspect.isfunction(function) and not name.endswith("_weights")


# `flat_regions` wraps another aggregator, `gramian_method` and `aggregator` make one
# of a user's functions, and `remember` is for such functions.
WITHOUT = ("flat_regions", "gramian_method", "aggregator", "remember")
WEIGHTS = ("constant_weights", "equal_weights", "random_weights")
FACTORIES = [
  name
  for name in dir(aggregators)
  if not name.startswith("_")
  and name not in WITHOUT
  and (name in WEIGHTS or is_factory(name))
]
GROUPED = [
  name
  for name in FACTORIES
  if "groups" in inspect.signature(getattr(aggregators, name)).parameters
]
RANDOM = ["gradient_dropout", "graddrop", "gradvac", "pcgrad", "random_weights"]
UNWEIGHTED = ["db_mtl", "graddrop", "gradient_dropout", "moco", "trimmed_mean"]


def make(name, **kwargs):
  factory = maxgnr if name == "maxgnr" else getattr(aggregators, name)
  return factory(**(NEEDED.get(name, {}) | kwargs))


def random_grads(seed, params=PARAMS, num_tasks=NUM_TASKS):
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda p: jnp.asarray(rng.normal(size=(num_tasks, *p.shape)), p.dtype), params
  )


def run(tx, params, num_steps=3, masks=None, **extra_args):
  state, update = tx.init(params), jax.jit(tx.update)
  for step in range(num_steps):
    if masks is not None:
      extra_args["task_mask"] = jnp.asarray(masks[step])
    updates, state = update(
      random_grads(step, params), state, params, **VALUES | extra_args
    )
  return updates, state


def test_there_are_as_many_factories_as_methods():
  assert len(FACTORIES) == 40
  assert len(GROUPED) == 20


@pytest.mark.parametrize("name", of_each_kind(["maxgnr", *FACTORIES]))
def test_every_factory_takes_num_tasks_and_shared(name):
  shared = {"trunk": True, "head": False}
  tx = make(name, num_tasks=NUM_TASKS, shared=shared)
  updates, state = run(tx, PARAMS, num_steps=1)
  chex.assert_trees_all_equal_shapes_and_dtypes(updates, PARAMS)
  chex.assert_tree_all_finite(updates)
  assert state.task_count.shape == (NUM_TASKS,)


@pytest.mark.parametrize("name", ["constant_weights", "ngdiff"])
def test_num_tasks_must_be_the_number_of_values_per_task(name):
  with pytest.raises(ValueError, match=r"`num_tasks` must be the number of .* 3"):
    make(name, num_tasks=2)


@pytest.mark.parametrize("name", of_each_kind(["maxgnr", *FACTORIES]))
def test_a_function_for_shared_sees_the_parameters_at_init_only(name):
  """It may look at their values, and its choice is kept."""
  seen = []

  def largest(params):
    seen.append(params)
    sizes = jax.tree.map(lambda p: float(jnp.sum(jnp.abs(p))), params)
    return jax.tree.map(lambda s: s == max(jax.tree.leaves(sizes)), sizes)

  params = {"small": jnp.ones(2), "large": 5.0 * jnp.ones(2)}
  tx = make(name, shared=largest, num_tasks=NUM_TASKS)
  state = tx.init(params)
  assert len(seen) == 1
  args = random_grads(0, params), state, params
  expected = make(name, shared={"small": False, "large": True}, num_tasks=NUM_TASKS)
  actual = jax.jit(tx.update)(*args, **VALUES)
  assert len(seen) == 1
  chex.assert_trees_all_equal(
    actual, jax.jit(expected.update)(args[0], expected.init(params), params, **VALUES)
  )


@pytest.mark.parametrize("name", ["maxgnr", "mgda"])
def test_a_function_for_groups_sees_the_parameters_at_init_only(name):
  seen = []

  def by_sign(params):
    seen.append(params)
    return jax.tree.map(lambda p: "plus" if float(p[0]) > 0 else "minus", params)

  params = {"a": jnp.ones(2), "b": -jnp.ones(2), "c": jnp.ones(2)}
  tx = make(name, groups=by_sign)
  state = tx.init(params)
  updates, after = jax.jit(tx.update)(random_grads(0, params), state, params)
  assert len(seen) == 1
  expected = make(name, groups={"a": "plus", "b": "minus", "c": "plus"})
  chex.assert_trees_all_equal(
    (updates, after),
    jax.jit(expected.update)(random_grads(0, params), expected.init(params), params),
  )


@pytest.mark.parametrize("name", of_each_kind(["maxgnr", *GROUPED]))
def test_each_group_is_aggregated_as_if_it_were_all(name):
  """Over three steps in which tasks are masked, one with no active task at all."""
  masks = [[True, True, True], [True, False, True], [False, False, False]]
  masks += [[True, True, False]]
  updates, state = run(
    make(name, num_tasks=NUM_TASKS, groups="layer"), PARAMS, 4, masks
  )
  names = group_names("layer", PARAMS)
  assert names == ["head", "trunk"]
  for row, layer in enumerate(names):
    alone = {layer: PARAMS[layer]}
    tx = make(name, num_tasks=NUM_TASKS)
    before, update = tx.init(alone), jax.jit(tx.update)
    for step, mask in enumerate(masks):
      grads = {layer: random_grads(step)[layer]}
      expected, before = update(
        grads, before, alone, task_mask=jnp.asarray(mask), **VALUES
      )
    chex.assert_trees_all_close(updates[layer], expected[layer], rtol=1e-4, atol=1e-5)
    chex.assert_trees_all_close(
      state.weights[row], before.weights, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("name", of_each_kind(GROUPED))
def test_parameters_outside_of_the_trunk_take_their_groups_weights(name):
  params = {"a": jnp.ones(4), "b": jnp.ones(4), "head": jnp.ones(2)}
  groups = {"a": "first", "b": "second", "head": "second"}
  shared = {"a": True, "b": True, "head": False}
  tx = make(name, num_tasks=NUM_TASKS, groups=groups, shared=shared)
  updates, state = run(tx, params, num_steps=1)
  assert state.weights.shape == (2, NUM_TASKS)
  expected = np.asarray(state.weights[1]) @ np.asarray(random_grads(0, params)["head"])
  np.testing.assert_allclose(updates["head"], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
  "name", of_each_kind(name for name in FACTORIES if name not in UNWEIGHTED)
)
def test_the_weights_in_the_state_made_the_update(name):
  masks = [[True, True, True], [True, True, False]]
  updates, state = run(make(name, num_tasks=NUM_TASKS), PARAMS, 2, masks)
  expected = jax.tree.map(
    lambda g: jnp.tensordot(state.weights, g, 1, precision="highest"), random_grads(1)
  )
  chex.assert_trees_all_close(updates, expected, rtol=1e-4, atol=1e-5)
  assert state.weights[2] == 0


@pytest.mark.parametrize("name", UNWEIGHTED)
def test_a_method_without_weighted_sum_has_no_weights(name):
  _, state = run(make(name), PARAMS)
  assert state.weights is None
  assert not any(key.startswith("weights") for key in diagnostics(state))
  assert f"notfinite_count/{NUM_TASKS - 1}" in diagnostics(state)


@pytest.mark.parametrize("name", UNWEIGHTED)
def test_a_method_without_weights_is_refused_between_refreshes(name):
  def losses(params):
    return [jnp.sum((params - k) ** 2) for k in range(NUM_TASKS)]

  params = jnp.ones(2)
  refused = value_and_combined_grad(losses, make(name, num_tasks=3), refresh_every=2)
  with pytest.raises(TypeError, match=r"no weighted sum.*refresh_every=1"):
    refused.init(params)
  taken = value_and_combined_grad(losses, make(name, num_tasks=3), refresh_every=1)
  _, grad, _ = taken.value_and_grad(taken.init(params), params)
  chex.assert_tree_all_finite(grad)


@pytest.mark.parametrize("name", ["maxgnr", "mgda"])
def test_groups_are_refused_between_refreshes(name):
  tx = make(name, num_tasks=2, groups="parameter")
  combined = value_and_combined_grad(lambda p: (p.sum(), p[0]), tx, refresh_every=2)
  with pytest.raises(TypeError, match="several groups of parameters"):
    combined.init(jnp.ones(2))


@pytest.mark.parametrize("name", ["maxgnr", *FACTORIES])
def test_gradients_of_other_parameters_than_the_state_are_refused(name):
  tx = make(name, num_tasks=NUM_TASKS)
  state = tx.init(PARAMS)
  other = {"elsewhere": jnp.ones((NUM_TASKS, 2))}
  with pytest.raises(ValueError, match="must be a pytree like the parameters that the"):
    tx.update(other, state, {"elsewhere": jnp.ones(2)}, **VALUES)


@pytest.mark.parametrize("name", ["modo", "sdmgrad"])
def test_extra_arguments_of_others_do_not_reach_the_measurements(name):
  tx, grads = make(name, num_tasks=NUM_TASKS), random_grads(0)
  args = grads, tx.init(PARAMS), PARAMS
  expected = tx.update(*args)
  others = jax.tree.map(lambda g: g[::-1], grads)
  actual = tx.update(*args, batches=(others, others), products=jnp.eye(3))
  chex.assert_trees_all_equal(actual, expected)


KEYS = {
  "integer": 7,
  "key": jax.random.key(7),
  "old-style key": jax.random.PRNGKey(7),
}


@functools.cache
def update_of(name):
  return make(name, num_tasks=NUM_TASKS).update


@pytest.mark.parametrize("kind", KEYS)
@pytest.mark.parametrize("name", RANDOM)
def test_an_integer_and_both_kinds_of_keys_draw_the_same(name, kind):
  update = update_of(name)  # all that a key changes is the initial state

  def drawn(key):
    tx = make(name, key=key, num_tasks=NUM_TASKS)._replace(update=update)
    return run(tx, PARAMS, num_steps=2)

  expected = drawn(7)
  chex.assert_trees_all_equal(drawn(KEYS[kind]), expected)
  _, other = drawn(8)
  assert np.any(other.memory["key"] != expected[1].memory["key"])


@pytest.mark.parametrize("name", RANDOM)
def test_a_key_of_another_generator_is_kept(name):
  key = jax.random.key(1, impl="rbg")
  _, state = run(make(name, key=key), PARAMS, num_steps=1)
  assert state.memory["key"].shape == (4,)


@pytest.mark.parametrize("num_tasks", [2, 3])
@pytest.mark.parametrize("name", ["pcgrad", "random_weights", "gradvac"])
def test_keys_are_no_numbers_per_task(name, num_tasks):
  """A key of two numbers is split as a whole, also with two tasks."""
  tx, grads = make(name, key=3), random_grads(0, num_tasks=num_tasks)
  mask = jnp.arange(num_tasks) > 0
  _, masked = tx.update(grads, tx.init(PARAMS), PARAMS, task_mask=mask)
  _, plain = tx.update(grads, tx.init(PARAMS), PARAMS)
  np.testing.assert_array_equal(masked.memory["key"], plain.memory["key"])
  nothing = jnp.zeros(num_tasks, bool)
  _, stayed = tx.update(grads, plain, PARAMS, task_mask=nothing)
  np.testing.assert_array_equal(stayed.memory["key"], plain.memory["key"])


@pytest.mark.parametrize("name", of_each_kind(["maxgnr", *FACTORIES]))
def test_states_can_be_serialised(name):
  """By flax, and by whatever takes the leaves as NumPy arrays, such as equinox."""
  grouped = {"groups": "layer"} if name in ("maxgnr", *GROUPED) else {}
  tx = make(name, num_tasks=NUM_TASKS, **grouped)
  _, state = run(tx, PARAMS, num_steps=2)
  for leaf in jax.tree.leaves(state):
    assert np.asarray(leaf).dtype != object
  read = flax.serialization.from_bytes(
    tx.init(PARAMS), flax.serialization.to_bytes(state)
  )
  chex.assert_trees_all_equal(read, state)
  grads = random_grads(5)
  chex.assert_trees_all_equal(
    *(jax.jit(tx.update)(grads, s, PARAMS, **VALUES) for s in (read, state))
  )


def most_often_longest(**kwargs):
  """The stateful method of the frame's docstring, for weights of any shape."""

  def init(params, shape, dtype):
    del params
    return {"wins": jnp.zeros(shape, dtype)}

  def measure(step, memory):
    del memory
    squared_norm = jnp.diagonal(step.gramian(), axis1=-2, axis2=-1)
    finite = jnp.isfinite(squared_norm)
    return squared_norm, finite if finite.ndim == 1 else jnp.all(finite, axis=0)

  def choose(squared_norm, active, memory):
    there = jnp.broadcast_to(active, squared_norm.shape)
    squared_norm = jnp.where(there, squared_norm, -1.0)
    won = squared_norm == jnp.max(squared_norm, axis=-1, keepdims=True)
    wins = memory["wins"] + (won & there).astype(squared_norm.dtype)
    total = jnp.maximum(jnp.sum(wins, axis=-1, keepdims=True), 1.0)
    return Choice(wins / total, {"wins": wins})

  return aggregator(Method(measure, choose, init), **kwargs)


@pytest.mark.parametrize("groups", [None, "parameter"])
def test_a_method_of_ones_own_gets_all_that_the_frame_does(groups):
  tx = optax.chain(most_often_longest(num_tasks=2, groups=groups), optax.scale(-1.0))
  params = {"a": jnp.zeros(1), "b": jnp.zeros(1)}
  state, update = tx.init(params), jax.jit(tx.update)
  steps = [([3.0, 1.0], [1.0, 1.5]), ([np.nan, 1.0], [1.0, 1.0]), ([1.0, 2.0],) * 2]
  for a, b in steps:
    grads = {"a": jnp.array(a)[:, None], "b": jnp.array(b)[:, None]}
    updates, state = update(grads, state, params)
    chex.assert_tree_all_finite(updates)
  assert optax.tree.get(state, "notfinite_count").tolist() == [1, 0]
  weights = optax.tree.get(state, "weights")
  if groups is None:  # task 0 was the longest once, task 1 twice
    np.testing.assert_allclose(weights, [1 / 3, 2 / 3], rtol=1e-6)
    np.testing.assert_allclose(updates["a"], -(1.0 + 2 * 2.0) / 3, rtol=1e-6)
  else:
    np.testing.assert_allclose(weights, [[1 / 3, 2 / 3], [0, 1]], rtol=1e-6)


def test_a_choice_must_have_one_weight_per_task():
  tx = aggregator(
    Method(lambda step, memory: (None, None), lambda *_: Choice(jnp.ones(2)))
  )
  with pytest.raises(ValueError, match="one weight per task"):
    tx.update(random_grads(0), tx.init(PARAMS), PARAMS)


@pytest.mark.parametrize(
  ("weighted", "needed"), [(True, "`weights`"), (False, "`combined` and `head_")]
)
def test_a_choice_must_have_what_its_method_promised(weighted, needed):
  tx = aggregator(
    Method(lambda step, memory: (None, None), lambda *_: Choice(), weighted=weighted)
  )
  with pytest.raises(TypeError, match=f"weighted={weighted} must have {needed}"):
    tx.update(random_grads(0), tx.init(PARAMS), PARAMS)


def test_diagnostics_finds_states_by_their_type():
  class AggregatorState:  # a namesake is not mistaken for the package's own
    weights = None

  assert not isinstance(AggregatorState(), aggregators.AggregatorState)
  with pytest.raises(KeyError, match="one state of `maxgnr` or another aggregator"):
    diagnostics((AggregatorState(),))
  _, state = run(aggregators.mgda(num_tasks=NUM_TASKS), PARAMS, num_steps=1)
  assert "weights/0" in diagnostics({"deep": [state, optax.EmptyState()]})
