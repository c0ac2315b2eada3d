"""Tasks that are inactive in a step: masked, or with numbers that are not finite."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maxgnr_jax import maxgnr, value_and_task_grads
from tests.helpers.examples import default_maxgnr, example_params, random_grads
from tests.helpers.traces import jit_with_max_traces
from tests.helpers.trees import assert_trees_close

pytestmark = pytest.mark.usefixtures("quick_compilation")

STEPS = 4


@functools.cache
def compiled(tx):
  """A step of it, which may be traced only once."""

  def step(grads, state, params, mask):
    return tx.update(grads, state, params, task_mask=mask)

  return jit_with_max_traces(step)


def run(tx, params, sequence, masks):
  """Updates and states of all steps."""
  state, results = tx.init(params), []
  for grads, mask in zip(sequence, masks, strict=True):
    updates, state = compiled(tx)(grads, state, params, jnp.asarray(mask))
    results.append((updates, state))
  return results


def without_counts(state):
  return state._replace(notfinite_count=None)


def with_number(grads, task, leaf, position, value):
  """The gradients with one number of one task replaced."""
  leaves, treedef = jax.tree.flatten(grads)
  bad = np.array(leaves[leaf])
  flat = bad.reshape(len(bad), -1)
  flat[task, position % flat.shape[1]] = value
  leaves[leaf] = jnp.asarray(bad)
  return jax.tree.unflatten(treedef, leaves)


@pytest.mark.thorough
@settings(max_examples=10)
@given(
  num_tasks=st.sampled_from([3, 17]),
  dtype=st.sampled_from(["float32", "bfloat16"]),
  value=st.sampled_from([np.nan, np.inf, -np.inf]),
  seed=st.integers(0, 99),
)
def test_a_task_with_a_non_finite_gradient_is_treated_like_a_masked_one(
  num_tasks, dtype, value, seed
):
  rng = np.random.default_rng(seed)
  params = jax.tree.map(lambda p: p.astype(dtype), example_params())
  tx = maxgnr(num_tasks=num_tasks)
  all_tasks = np.ones(num_tasks, bool)
  clean, broken, masks = [], [], []
  for step in range(STEPS):
    grads = random_grads(params, num_tasks, seed + step)
    task, leaf = rng.integers(num_tasks), rng.integers(len(jax.tree.leaves(params)))
    clean.append(grads)
    broken.append(with_number(grads, task, leaf, rng.integers(1000), value))
    masks.append(np.arange(num_tasks) != task)
  expected = run(tx, params, clean, masks)
  found = run(tx, params, broken, [all_tasks] * STEPS)
  for (updates, state), (right_updates, right_state) in zip(
    found, expected, strict=True
  ):
    assert_trees_close(updates, right_updates)
    assert_trees_close(without_counts(state), without_counts(right_state))
    chex.assert_tree_all_finite(updates)
  missed = STEPS * all_tasks - sum(np.asarray(m, int) for m in masks)
  np.testing.assert_array_equal(found[-1][1].notfinite_count, STEPS - sum(masks, 0))
  np.testing.assert_array_equal(found[-1][1].task_count, STEPS - missed)
  np.testing.assert_array_equal(expected[-1][1].notfinite_count, 0)


@settings(max_examples=10)
@given(
  # Few sizes, because each is compiled.
  active=st.sampled_from([(3, 1), (9, 2)]).flatmap(
    lambda sizes: st.permutations([k >= sizes[1] for k in range(sizes[0])])
  ),
  seed=st.integers(0, 99),
)
def test_a_task_that_is_never_active_changes_nothing(active, seed):
  params, mask = example_params(), np.array(active)
  sequence = [random_grads(params, len(mask), seed + step) for step in range(STEPS)]
  found = run(default_maxgnr(len(mask)), params, sequence, [mask] * STEPS)
  fewer = [jax.tree.map(lambda g: g[mask], grads) for grads in sequence]
  num_active = int(mask.sum())
  alone = run(default_maxgnr(num_active), params, fewer, [mask[mask]] * STEPS)
  for (updates, state), (right_updates, right_state) in zip(found, alone, strict=True):
    assert_trees_close(updates, right_updates, rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(state.weights[~mask], 0)
    np.testing.assert_allclose(state.weights[mask], right_state.weights, atol=1e-4)
    np.testing.assert_allclose(jnp.sum(state.weights), 1, rtol=1e-6)
    assert_trees_close(
      jax.tree.map(lambda m: m[mask], state.momentum), right_state.momentum
    )
    np.testing.assert_array_equal(state.gnr[~mask], 0)
  np.testing.assert_array_equal(found[-1][1].task_count, STEPS * mask)


def test_momentum_of_an_inactive_task_stays_and_begins_with_its_first_gradient():
  params = example_params()
  first, second, third = (random_grads(params, 2, seed) for seed in range(3))
  tx = maxgnr(gamma=0.5, num_tasks=2)
  masks = [np.array(m) for m in ([True, False], [False, True], [True, True])]
  results = run(tx, params, [first, second, third], masks)
  momenta = [state.momentum for _, state in results]

  def of_task(k, tree):
    return jax.tree.map(lambda x: x[k], tree)

  zeros = jax.tree.map(jnp.zeros_like, params)
  assert_trees_close(of_task(0, momenta[0]), of_task(0, first))
  assert_trees_close(of_task(1, momenta[0]), zeros)
  assert_trees_close(of_task(0, momenta[1]), of_task(0, first))
  assert_trees_close(of_task(1, momenta[1]), of_task(1, second))
  halfway = jax.tree.map(lambda a, b: (a + b) / 2, of_task(0, first), of_task(0, third))
  assert_trees_close(of_task(0, momenta[2]), halfway, rtol=1e-5, atol=1e-6)
  np.testing.assert_array_equal(results[0][1].weights, [1, 0])
  np.testing.assert_array_equal(results[1][1].weights, [0, 1])


@pytest.mark.parametrize("num_tasks", [2, 9, 17])
def test_without_active_tasks_nothing_changes(num_tasks):
  params = example_params()
  grads = random_grads(params, num_tasks, 0)
  no_tasks = np.zeros(num_tasks, bool)
  tx = maxgnr(num_tasks=num_tasks)
  (_, before), (updates, after) = run(tx, params, [grads] * 2, [~no_tasks, no_tasks])
  assert_trees_close(updates, jax.tree.map(jnp.zeros_like, params))
  assert_trees_close(after.momentum, before.momentum)
  np.testing.assert_array_equal(after.weights, 0)
  np.testing.assert_array_equal(after.gnr, 0)
  assert int(after.count) == 2


def test_a_non_finite_head_makes_a_task_inactive_although_only_the_trunk_is_measured():
  params = {"head": jnp.ones(3), "trunk": jnp.ones(4)}
  grads = random_grads(params, 2, 0)
  tx = maxgnr(num_tasks=2, shared={"head": False, "trunk": True})
  bad = with_number(grads, 1, 0, 2, np.nan)
  (updates, state), *_ = run(tx, params, [bad], [np.ones(2, bool)])
  np.testing.assert_array_equal(state.weights, [1, 0])
  np.testing.assert_array_equal(state.notfinite_count, [0, 1])
  assert_trees_close(updates, jax.tree.map(lambda g: g[0], grads))


def test_a_gradient_whose_square_overflows_counts_as_non_finite():
  params = jnp.ones(5000)
  grads = jnp.ones((2, 5000)).at[1, 7].set(1e38)
  (updates, state), *_ = run(maxgnr(num_tasks=2), params, [grads], [np.ones(2, bool)])
  np.testing.assert_array_equal(state.notfinite_count, [0, 1])
  np.testing.assert_allclose(updates, grads[0])


def test_a_loss_without_labels_may_be_nan():
  """The mean over no labels is NaN, and so is its gradient."""

  def losses(w, labelled):
    def mean(x, mask):
      mask = mask.astype(x.dtype)
      return jnp.sum(mask * x) / jnp.sum(mask)

    return mean(w**2, jnp.ones(3, bool)), mean((w - 1) ** 2, labelled)

  tx = optax.chain(maxgnr(num_tasks=2), optax.sgd(0.1))
  params = jnp.array([1.0, 2.0, 3.0])
  _, grads = value_and_task_grads(losses)(params, jnp.zeros(3, bool))
  assert jnp.all(jnp.isnan(grads[1]))
  updates, state = tx.update(grads, tx.init(params), params)
  np.testing.assert_allclose(updates, -0.1 * 2 / 3 * params, rtol=1e-6)
  np.testing.assert_array_equal(optax.tree.get(state, "notfinite_count"), [0, 1])


@pytest.mark.parametrize(
  ("mask", "error", "message"),
  [
    ([1.0, 0.0], TypeError, "must hold bools"),
    (jnp.ones(2, jnp.int32), TypeError, "must hold bools"),
    (jnp.ones(3, bool), ValueError, r"one value per task, as a vector \[2\]"),
    (jnp.ones((2, 1), bool), ValueError, "one value per task"),
  ],
)
def test_an_invalid_task_mask_raises_an_error_that_says_what_it_must_be(
  mask, error, message
):
  params = jnp.ones(4)
  tx = maxgnr(num_tasks=2)
  update = functools.partial(tx.update, random_grads(params, 2, 0), tx.init(params))
  with pytest.raises(error, match=message):
    update(params, task_mask=mask)


def test_a_task_mask_may_be_a_pytree_like_the_losses():
  params = jnp.ones(4)
  tx = maxgnr(num_tasks=2)
  grads = random_grads(params, 2, 0)
  mask = {"depth": np.True_, "edges": jnp.zeros((), bool)}
  _, state = tx.update(grads, tx.init(params), params, task_mask=mask)
  np.testing.assert_array_equal(state.weights, [1, 0])
