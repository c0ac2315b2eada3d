"""Methods with memory keep what they know about inactive tasks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from maxgnr_jax import aggregators
from tests.helpers.inactive import (
  AFTER,
  ALL_TASKS,
  GRADS,
  INDEPENDENT,
  LOSSES,
  NUM_STEPS,
  NUM_TASKS,
  SIZE,
  all_but,
  assert_same_steps,
  run,
)
from tests.helpers.marks import thorough_but

pytestmark = pytest.mark.usefixtures("quick_compilation")
TWO_BATCHES = {
  "modo": functools.partial(aggregators.modo, 0.02),
  "sdmgrad": functools.partial(aggregators.sdmgrad, learning_rate=0.1),
}


@pytest.mark.parametrize("value", [np.nan])
@pytest.mark.parametrize("batch", thorough_but([1], [0, 1]))
@pytest.mark.parametrize("name", TWO_BATCHES)
def test_a_task_is_inactive_if_its_gradient_on_either_batch_is_not_finite(
  name, batch, value
):
  batches = [GRADS, INDEPENDENT]
  masks = np.stack([all_but(step % NUM_TASKS) for step in range(NUM_STEPS)])
  for step in range(NUM_STEPS):
    batches[batch] = batches[batch].at[step, step % NUM_TASKS, 2].set(value)
  make = TWO_BATCHES[name]
  all_tasks = np.ones_like(masks)
  found = run(make, all_tasks, batches[0], independent_grads=batches[1])
  expected = run(make, masks, GRADS, independent_grads=INDEPENDENT)
  assert_same_steps(found, expected)
  np.testing.assert_array_equal(
    found[1].notfinite_count[-1], NUM_STEPS - masks.sum(axis=0)
  )


@pytest.mark.parametrize("name", TWO_BATCHES)
def test_a_task_that_is_never_active_on_two_batches_changes_nothing(name):
  mask = all_but(1)
  updates, state = run(
    TWO_BATCHES[name], np.tile(mask, (NUM_STEPS, 1)), independent_grads=INDEPENDENT
  )
  right_updates, right_state = run(
    TWO_BATCHES[name],
    np.ones((NUM_STEPS, NUM_TASKS - 1), bool),
    GRADS[:, mask],
    independent_grads=INDEPENDENT[:, mask],
  )
  np.testing.assert_allclose(updates, right_updates, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(
    state.weights[:, mask], right_state.weights, rtol=1e-4, atol=1e-5
  )


# With their default optimisers, and with one whose clipping looks at all tasks.
CLIPPED = optax.chain(
  optax.add_decayed_weights(0.1), optax.clip_by_global_norm(0.01), optax.sgd(1.0)
)
LEARNED = {
  f"{name}-{kind}": functools.partial(make, **kwargs)
  for name, make in {
    "famo": aggregators.famo,
    "gradnorm": aggregators.gradnorm,
    "imtl_l": aggregators.imtl_l,
    "uncertainty": aggregators.uncertainty,
  }.items()
  for kind, kwargs in {"default": {}, "clipped": {"optimizer": CLIPPED}}.items()
}


@pytest.mark.parametrize(
  "name", thorough_but(["famo-default", "imtl_l-clipped"], LEARNED)
)
def test_inactive_tasks_do_not_influence_the_learned_weights_of_others(
  name, standard_promotion
):
  mask = all_but(1)
  updates, state = run(
    LEARNED[name],
    np.tile(mask, (NUM_STEPS, 1)),
    losses=LOSSES.at[:, 1].set(np.nan),
    losses_after_step=AFTER,
  )
  right_updates, right_state = run(
    LEARNED[name],
    np.ones((NUM_STEPS, NUM_TASKS - 1), bool),
    GRADS[:, mask],
    losses=LOSSES[:, mask],
    losses_after_step=AFTER[:, mask],
  )
  np.testing.assert_allclose(updates, right_updates, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(state.weights[:, mask], right_state.weights, rtol=1e-4)
  assert np.ptp(right_state.weights, axis=0).max() > 1e-3


@pytest.mark.parametrize("name", LEARNED)
def test_the_learned_values_of_an_inactive_task_stay(name, standard_promotion):
  masks = np.stack([ALL_TASKS, ALL_TASKS, all_but(1), all_but(1)])
  _, state = run(LEARNED[name], masks, losses=LOSSES)
  moved = 0
  for leaf in jax.tree.leaves(state.memory):
    if leaf.shape[1:] == (NUM_TASKS,):
      np.testing.assert_array_equal(leaf[3, 1], leaf[1, 1])
      moved += not np.array_equal(leaf[3, 0], leaf[1, 0])
  assert moved


SIMPLEX = {
  "excess_mtl": functools.partial(aggregators.excess_mtl, 0.5),
  "moco": functools.partial(aggregators.moco, gamma=0.02),
} | TWO_BATCHES


@pytest.mark.parametrize("name", SIMPLEX)
def test_a_task_that_returns_has_the_share_it_had_before(name):
  masks = np.stack([ALL_TASKS, ALL_TASKS, all_but(1, 2), ~ALL_TASKS])
  _, state = run(SIMPLEX[name], masks)
  shares = np.asarray(state.memory["simplex_weights"])
  np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-5)
  np.testing.assert_array_equal(shares[2, [1, 2]], shares[1, [1, 2]])
  np.testing.assert_array_equal(shares[3], shares[2])
  assert abs(shares[2, 0] - shares[1, 0]) > 1e-4
  if name != "moco":  # its update is no weighted sum
    np.testing.assert_allclose(state.weights[2].sum(), 1, rtol=1e-5)


@pytest.mark.parametrize("name", ["modo", "moco", "sdmgrad"])
def test_tasks_without_weight_share_it_equally_when_the_others_become_inactive(name):
  make = {
    "modo": functools.partial(aggregators.modo, 1.0, 0.0),
    "moco": functools.partial(aggregators.moco, 1.0, 1.0, gamma_decay=0.0),
    "sdmgrad": functools.partial(aggregators.sdmgrad, 0.0),
  }[name]
  # The shortest combination is the first gradient, and without it any of the others.
  grads = jnp.zeros((NUM_TASKS, SIZE)).at[0, 0].set(1.0)
  grads = jnp.stack([grads.at[1:, 0].set(9.0)] * 4)
  masks = np.stack([ALL_TASKS, ALL_TASKS, all_but(0), all_but(0)])
  _, state = run(make, masks, grads)
  weights = state.weights
  if name == "moco":  # its update is no weighted sum; it remembers its weights
    shares = np.where(masks, state.memory["simplex_weights"], 0)
    weights = shares / shares.sum(axis=1, keepdims=True)
  np.testing.assert_allclose(weights[1], [1, 0, 0, 0], atol=1e-6)
  np.testing.assert_allclose(weights[3], [0, 1 / 3, 1 / 3, 1 / 3], atol=1e-5)
