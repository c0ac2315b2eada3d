"""Properties of every transformation when tasks are inactive in a step."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers.examples import example_params, random_grads
from tests.helpers.kinds import of_each_kind
from tests.helpers.methods import METHODS
from tests.helpers.traces import jit_with_max_traces
from tests.helpers.trees import assert_trees_close, assert_trees_equal

pytestmark = pytest.mark.usefixtures("quick_compilation")

NUM_TASKS, NUM_STEPS = 4, 3
PARAMS = example_params()
# For fewer tasks these methods draw other random numbers.
DRAWN = ("gradient_dropout", "gradvac", "pcgrad", "random_weights")
# Their arguments refer to tasks by position.
FIXED = ("constant_weights", "ngdiff")
READ_LOSSES = (
  "bmtl",
  "db_mtl",
  "dwa",
  "famo",
  "gls",
  "go4align",
  "gradnorm",
  "igb",
  "imtl_l",
  "slaw",
  "stch",
  "uncertainty",
)


# Module scope keeps the tests of one method together, so that they share compilation.
@pytest.fixture(params=METHODS, scope="module")
def name(request):
  return request.param


ON_EACH_KIND = pytest.mark.parametrize(
  "name", of_each_kind(METHODS), indirect=True, scope="module"
)


def arguments(seed):
  """Gradients of one step, and all extra arguments that methods read."""
  rng = np.random.default_rng(seed)
  numbers = {name: rng.uniform(0.1, 0.9, NUM_TASKS) for name in ("losses", "kpis")}
  extra = {name: jnp.asarray(x, jnp.float32) for name, x in numbers.items()}
  extra["flat_grads"] = random_grads(PARAMS, NUM_TASKS, seed + 100)
  return random_grads(PARAMS, NUM_TASKS, seed), extra


SEQUENCE = [arguments(seed) for seed in range(NUM_STEPS)]


@functools.cache
def compiled(name, num_tasks):
  """A method's transformation and its step, which may be traced only once."""
  tx = METHODS[name].make(num_tasks=num_tasks)

  def step(grads, extra, state, mask):
    return tx.update(grads, state, PARAMS, task_mask=mask, **extra)

  return tx, jit_with_max_traces(step)


def run(name, sequence, masks, num_tasks=NUM_TASKS):
  tx, step = compiled(name, num_tasks)
  state, history = tx.init(PARAMS), []
  for (grads, extra), mask in zip(sequence, masks, strict=True):
    updates, state = step(grads, extra, state, jnp.asarray(mask))
    history.append((updates, state))
  return history


def all_but(task):
  return np.arange(NUM_TASKS) != task


def parts(state):
  """The states of the method, or of its two parts for `flat_regions`."""
  return (state.plain, state.flat) if hasattr(state, "plain") else (state,)


@ON_EACH_KIND
def test_a_task_that_is_never_active_changes_nothing(name):
  if name in DRAWN:
    pytest.skip("of fewer tasks it is another method")
  missing = NUM_TASKS - 1 if name in FIXED else 0
  mask = all_but(missing)
  fewer = jax.tree.map(lambda x: x[mask], SEQUENCE)
  found = run(name, SEQUENCE, [mask] * NUM_STEPS)
  expected = run(name, fewer, [mask[mask]] * NUM_STEPS, NUM_TASKS - 1)
  for (updates, state), (right_updates, right_state) in zip(
    found, expected, strict=True
  ):
    assert_trees_close(updates, right_updates, rtol=1e-3, atol=1e-4)
    for part, right_part in zip(parts(state), parts(right_state), strict=True):
      assert (part.weights is None) == (right_part.weights is None)
      if part.weights is not None:
        np.testing.assert_array_equal(part.weights[missing], 0)
        np.testing.assert_allclose(
          part.weights[mask], right_part.weights, rtol=1e-3, atol=1e-4
        )
      np.testing.assert_array_equal(part.notfinite_count, 0)


@ON_EACH_KIND
@pytest.mark.parametrize("value", [np.nan])
def test_a_task_with_a_non_finite_gradient_is_treated_like_a_masked_one(name, value):
  sequence, masks = [], []
  for step, (grads, extra) in enumerate(SEQUENCE):
    task = step % NUM_TASKS
    leaves, treedef = jax.tree.flatten(grads)
    one = step % len(leaves)
    flat = leaves[one].reshape(NUM_TASKS, -1).at[task, -1].set(value)
    leaves[one] = flat.reshape(leaves[one].shape)
    flat_grads = jax.tree.map(lambda g, k=task: g.at[k].set(value), extra["flat_grads"])
    sequence.append((treedef.unflatten(leaves), extra | {"flat_grads": flat_grads}))
    masks.append(all_but(task))
  expected = run(name, SEQUENCE, masks)
  found = run(name, sequence, [np.ones(NUM_TASKS, bool)] * NUM_STEPS)
  for (updates, state), (right_updates, right_state) in zip(
    found, expected, strict=True
  ):
    assert_trees_close(updates, right_updates, rtol=1e-5, atol=1e-6)
    chex.assert_tree_all_finite(updates)
    for part, right_part in zip(parts(state), parts(right_state), strict=True):
      assert_trees_close(
        part._replace(notfinite_count=()),
        right_part._replace(notfinite_count=()),
        rtol=1e-5,
        atol=1e-6,
      )
  for part in parts(found[-1][1]):
    np.testing.assert_array_equal(part.notfinite_count, NUM_STEPS - sum(masks, 0))


def test_the_memory_of_an_inactive_task_stays(name):
  inactive = 1
  masks = [np.ones(NUM_TASKS, bool), all_but(inactive)]
  (_, before), (_, after) = run(name, SEQUENCE[:2], masks)
  for old, new in zip(parts(before), parts(after), strict=True):
    kept = ("momentum", "memory", "task_count")
    old, new = ([getattr(s, k, ()) for k in kept] for s in (old, new))
    for x, y in zip(jax.tree.leaves(old), jax.tree.leaves(new), strict=True):
      if x.shape[:1] == (NUM_TASKS,):
        np.testing.assert_array_equal(x[inactive], y[inactive])


def test_without_active_tasks_nothing_changes(name):
  all_tasks = np.ones(NUM_TASKS, bool)
  (_, before), (updates, after) = run(name, SEQUENCE[:2], [all_tasks, ~all_tasks])
  assert_trees_close(updates, jax.tree.map(jnp.zeros_like, PARAMS))
  for old, new in zip(parts(before), parts(after), strict=True):
    if new.weights is not None:
      np.testing.assert_array_equal(new.weights, 0)
    np.testing.assert_array_equal(old.task_count, new.task_count)
    kept = [getattr(s, "memory", getattr(s, "momentum", ())) for s in (old, new)]
    assert_trees_equal(*kept)


@pytest.mark.parametrize("value", [np.inf])
def test_a_non_finite_loss_makes_its_task_inactive(name, value):
  broken = [
    (grads, extra | {"losses": extra["losses"].at[2].set(value)})
    for grads, extra in SEQUENCE
  ]
  read = name in READ_LOSSES
  mask = all_but(2) if read else np.ones(NUM_TASKS, bool)
  expected = run(name, SEQUENCE, [mask] * NUM_STEPS)
  found = run(name, broken, [np.ones(NUM_TASKS, bool)] * NUM_STEPS)
  for (updates, state), (right_updates, _) in zip(found, expected, strict=True):
    assert_trees_close(updates, right_updates, rtol=1e-5, atol=1e-6)
    for part in parts(state):
      chex.assert_tree_all_finite(part.weights)
  missed = [0, 0, NUM_STEPS * read, 0]
  for part in parts(found[-1][1]):
    np.testing.assert_array_equal(part.notfinite_count, missed)
