"""Properties of every transformation that aggregates task gradients."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.helpers.examples import flat, follow, grads_sequence, random_grads
from tests.helpers.kinds import of_each_kind
from tests.helpers.methods import (
  METHODS,
  NUM_STEPS,
  NUM_TASKS,
  PARAMS,
  make,
  transformation,
  with_task_values,
)
from tests.helpers.traces import jit_with_max_traces
from tests.helpers.trees import assert_trees_close, assert_trees_equal

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(params=METHODS)
def name(request):
  if reason := METHODS[request.param].exempt.get(request.node.originalname):
    pytest.skip(reason)
  return request.param


# For what the frame does, not the method.
ON_EACH_KIND = pytest.mark.parametrize("name", of_each_kind(METHODS), indirect=True)


@pytest.fixture
def method(name):
  return METHODS[name]


@pytest.fixture
def tx(name):
  return transformation(name)


def sequence(scales=None):
  return grads_sequence(PARAMS, NUM_TASKS, NUM_STEPS, scales)


def stacked(trees):
  return jax.tree.map(lambda *x: jnp.stack(x), *trees)


def assert_follow_alike(actual, expected, rtol=1e-3, atol=1e-4):
  assert_trees_close(actual, expected, rtol, atol)


@ON_EACH_KIND
def test_jit_equals_eager(tx):
  state = tx.init(PARAMS)
  two_steps = sequence()[:2]
  for grads, expected in zip(two_steps, follow(tx, PARAMS, two_steps), strict=True):
    updates, state = tx.update(grads, state, PARAMS)
    assert_follow_alike((updates, state), expected)


@ON_EACH_KIND
def test_scan_equals_a_loop(tx):
  def step(state, grads):
    updates, state = tx.update(grads, state, PARAMS)
    return state, (updates, state)

  _, history = jax.lax.scan(step, tx.init(PARAMS), stacked(sequence()))
  assert_follow_alike(history, stacked(follow(tx, PARAMS, sequence())))


@ON_EACH_KIND
def test_vmap_over_seeds_equals_a_loop(tx):
  seeds = range(3)
  grads = [random_grads(PARAMS, NUM_TASKS, seed) for seed in seeds]
  state = follow(tx, PARAMS, sequence())[-1][1]
  update = jax.jit(tx.update)
  expected = stacked([update(g, state, PARAMS) for g in grads])
  states, params = stacked([state] * 3), stacked([PARAMS] * 3)
  batched = jax.jit(jax.vmap(tx.update))(stacked(grads), states, params)
  assert_follow_alike(batched, expected)


@ON_EACH_KIND
def test_a_step_can_be_vmapped(tx):
  """Traced only; each method could contain what cannot be batched."""
  args = random_grads(PARAMS, NUM_TASKS), tx.init(PARAMS), PARAMS
  several = jax.tree.map(lambda x: jax.ShapeDtypeStruct((2, *x.shape), x.dtype), args)
  updates, state = jax.eval_shape(jax.vmap(tx.update), *several)
  chex.assert_trees_all_equal_shapes_and_dtypes(updates, several[2])
  chex.assert_trees_all_equal_shapes_and_dtypes(state, several[1])


@ON_EACH_KIND
def test_steps_are_not_traced_again(method):
  """Without `num_tasks` the first step changes the state's shapes: two traces."""
  tx = make(method, None)

  def step(grads, state, params):
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state

  step = jit_with_max_traces(step, 2)
  params, state = PARAMS, tx.init(PARAMS)
  for grads in sequence():  # traced as in a call, but not compiled
    params, state = jax.eval_shape(step, grads, state, params)


@ON_EACH_KIND
def test_unknown_extra_arguments_are_ignored(tx):
  update = jax.jit(tx.update, static_argnames="unknown")
  arguments = random_grads(PARAMS, NUM_TASKS), tx.init(PARAMS), PARAMS
  result = update(*arguments, value=jnp.ones(()), unknown="anything")
  assert_trees_equal(result, jax.jit(tx.update)(*arguments))


@ON_EACH_KIND
def test_the_state_keeps_its_structure_shapes_and_dtypes(tx):
  initial = tx.init(PARAMS)
  assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(initial))
  for _, state in follow(tx, PARAMS, sequence()):
    chex.assert_trees_all_equal_shapes_and_dtypes(state, initial)


@ON_EACH_KIND
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_updates_have_the_parameters_structure_shapes_and_dtypes(tx, dtype):
  args = random_grads(PARAMS, NUM_TASKS), PARAMS
  grads, params = jax.tree.map(lambda x: x.astype(dtype), args)
  state = tx.init(params)
  updates, after = jax.eval_shape(tx.update, grads, state, params)
  chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)
  chex.assert_trees_all_equal_shapes_and_dtypes(after, state)


@ON_EACH_KIND
def test_the_state_is_known_to_optax_tree_utilities(tx):
  state = follow(tx, PARAMS, sequence())[-1][1]
  kept = optax.tree.map_params(tx, lambda x: x, state)
  assert_trees_equal(kept, state)
  like_params = optax.tree.map_params(
    tx, lambda x: x, state, transform_non_params=lambda _: None
  )
  chex.assert_tree_shape_prefix(like_params, (NUM_TASKS,))
  assert int(getattr(state, "plain", state).count) == NUM_STEPS


# On all methods `test_derivatives.py` traces them, and sees what they change.
@ON_EACH_KIND
def test_hyperparameters_may_be_injected(method, tx, standard_promotion):
  if method.schedulable is None:
    pytest.skip("no number to schedule")
  name, default, other = method.schedulable
  injected = optax.inject_hyperparams(method.make, static_args=("num_tasks",))(
    num_tasks=NUM_TASKS, **{name: lambda step: jnp.where(step < 2, default, other)}
  )
  injected = with_task_values(injected)
  history, constant = (follow(t, PARAMS, sequence()) for t in (injected, tx))
  assert_follow_alike(history[1][0], constant[1][0])
  assert_follow_alike(history[1][1].inner_state, constant[1][1])
  assert np.max(np.abs(flat(history[-1][0]) - flat(constant[-1][0]))) > 1e-3


@ON_EACH_KIND
def test_bfloat16_keeps_its_dtype_and_follows_float32(tx):
  as_bfloat16 = jax.tree.map(lambda x: x.astype(jnp.bfloat16), (PARAMS, sequence()))
  as_float32 = jax.tree.map(lambda x: x.astype(jnp.float32), as_bfloat16)
  expected, _ = follow(tx, *as_float32)[-1]
  updates, _ = follow(tx, *as_bfloat16)[-1]
  chex.assert_trees_all_equal_shapes_and_dtypes(updates, as_bfloat16[0])
  np.testing.assert_allclose(flat(updates), flat(expected), atol=0.05)


@ON_EACH_KIND
def test_the_update_for_one_task_points_along_its_gradient(method):
  grads = grads_sequence(PARAMS, 1, 2)
  updates, _ = follow(make(method, 1), PARAMS, grads)[-1]
  assert_positive_multiple(flat(updates), flat(grads[-1]))


def test_the_update_for_equal_gradients_points_along_them(tx):
  grads = [
    jax.tree.map(lambda g: jnp.repeat(g, NUM_TASKS, axis=0), one)
    for one in grads_sequence(PARAMS, 1, 2)
  ]
  updates, _ = follow(tx, PARAMS, grads)[-1]
  assert_positive_multiple(flat(updates), flat(jax.tree.map(lambda g: g[0], grads[-1])))


def test_zero_gradients_give_a_zero_update(tx):
  for updates, state in follow(tx, PARAMS, sequence(np.zeros(NUM_TASKS))):
    np.testing.assert_array_equal(flat(updates), 0)
    assert_no_nan(state)


@pytest.mark.parametrize("task", range(NUM_TASKS))
def test_one_zero_gradient_leaves_a_finite_nonzero_update(tx, task):
  scales = np.ones(NUM_TASKS)
  scales[task] = 0
  for updates, _ in follow(tx, PARAMS, sequence(scales)):
    chex.assert_tree_all_finite(updates)
    assert np.any(flat(updates))


@pytest.mark.parametrize("exponent", [-10, -5, 5, 10])
def test_gradients_of_any_scale_give_an_update_of_that_scale(method, tx, exponent):
  for updates, state in follow(tx, PARAMS, sequence([10.0**exponent] * NUM_TASKS)):
    chex.assert_tree_all_finite(updates)
    scale = 10.0 ** (method.degree * exponent)
    assert 1e-3 < np.max(np.abs(flat(updates))) / scale < 1e3
    assert_no_nan(state)


def test_tasks_of_very_different_scales_leave_a_finite_nonzero_update(tx):
  for updates, state in follow(tx, PARAMS, sequence([1e-10, 1, 1e10])):
    chex.assert_tree_all_finite(updates)
    assert np.any(flat(updates))
    assert_no_nan(state)


@ON_EACH_KIND
def test_none_and_masked_leaves_pass_through(tx):
  params = PARAMS | {"none": None, "masked": optax.MaskedNode()}
  grads = random_grads(params, NUM_TASKS)
  updates, _ = jax.eval_shape(tx.update, grads, tx.init(params), params)
  assert updates["none"] is None
  assert updates["masked"] == optax.MaskedNode()


def assert_no_nan(state):
  for leaf in jax.tree.leaves(state):
    if jnp.issubdtype(leaf.dtype, jnp.floating):
      assert not np.any(np.isnan(leaf))


def assert_positive_multiple(actual, expected):
  actual, expected = (x / np.linalg.norm(x) for x in (actual, expected))
  np.testing.assert_allclose(actual, expected, atol=1e-5)
