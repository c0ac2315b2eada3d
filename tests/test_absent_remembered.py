"""Tasks that come late or go for a while, of methods that remember or learn."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from maxgnr_jax import aggregators
from tests.examples import assert_trees_close, task_gradients

pytestmark = pytest.mark.usefixtures("quick_compilation")
NUM_TASKS, NUM_STEPS, SIZE = 4, 5, 6
PARAMS = jnp.zeros(SIZE)
EVERYONE = np.ones(NUM_TASKS, bool)


def jacobians(seed, num_steps=NUM_STEPS):
  drawn = [task_gradients(10 * seed + i, NUM_TASKS, 1, SIZE) for i in range(num_steps)]
  return jnp.asarray(np.stack(drawn), jnp.float32)


GRADS, INDEPENDENT = jacobians(0), jacobians(1)
RNG = np.random.default_rng(0)
LOSSES = jnp.asarray(RNG.uniform(0.2, 3.0, (NUM_STEPS, NUM_TASKS)), jnp.float32)
AFTER = LOSSES * jnp.float32(0.9)


def all_but(*tasks):
  return ~np.isin(np.arange(NUM_TASKS), tasks)


def run(make, masks, grads=GRADS, **extra_args):
  """The updates and states of all steps, for gradients of as many tasks as masks."""
  masks = jnp.asarray(masks)
  tx = make(num_tasks=masks.shape[1])

  @jax.jit
  def scan(state, *inputs):
    def step(state, now):
      grads, mask, extra = now
      updates, state = tx.update(grads, state, PARAMS, task_mask=mask, **extra)
      return state, (updates, state)

    return jax.lax.scan(step, state, inputs)[1]

  steps = masks.shape[0]
  extra_args = {name: x[:steps] for name, x in extra_args.items()}
  return scan(tx.init(PARAMS), grads[:steps], masks, extra_args)


def assert_same_steps(actual, expected):
  (updates, state), (right_updates, right_state) = actual, expected
  np.testing.assert_allclose(updates, right_updates, rtol=1e-5, atol=1e-6)
  without = {"notfinite_count": ()}
  assert_trees_close(
    state._replace(**without), right_state._replace(**without), rtol=1e-5, atol=1e-6
  )
  assert np.all(np.isfinite(updates))


TWO_BATCHES = {
  "modo": functools.partial(aggregators.modo, 0.02),
  "sdmgrad": functools.partial(aggregators.sdmgrad, learning_rate=0.1),
}


@pytest.mark.parametrize("value", [np.nan])
@pytest.mark.parametrize("batch", [0, 1])
@pytest.mark.parametrize("name", TWO_BATCHES)
def test_either_batch_may_poison_a_task(name, batch, value):
  batches = [GRADS, INDEPENDENT]
  masks = np.stack([all_but(step % NUM_TASKS) for step in range(NUM_STEPS)])
  for step in range(NUM_STEPS):
    batches[batch] = batches[batch].at[step, step % NUM_TASKS, 2].set(value)
  make = TWO_BATCHES[name]
  everyone = np.ones_like(masks)
  found = run(make, everyone, batches[0], independent_grads=batches[1])
  expected = run(make, masks, GRADS, independent_grads=INDEPENDENT)
  assert_same_steps(found, expected)
  np.testing.assert_array_equal(
    found[1].notfinite_count[-1], NUM_STEPS - masks.sum(axis=0)
  )


@pytest.mark.parametrize("name", TWO_BATCHES)
def test_of_two_batches_a_task_that_is_never_there_changes_nothing(name):
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


# With the optimisers that they have by default, and one that looks at all tasks.
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


@pytest.mark.parametrize("name", LEARNED)
def test_optimisers_learn_as_if_there_were_no_absent_task(name, standard_promotion):
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
def test_what_is_learned_of_an_absent_task_stays(name, standard_promotion):
  masks = np.stack([EVERYONE, EVERYONE, all_but(1), all_but(1)])
  _, state = run(LEARNED[name], masks, losses=LOSSES)
  moved = 0
  for leaf in jax.tree.leaves(state.memory):
    if leaf.shape[1:] == (NUM_TASKS,):
      np.testing.assert_array_equal(leaf[3, 1], leaf[1, 1])
      moved += not np.array_equal(leaf[3, 0], leaf[1, 0])
  assert moved


def test_famo_learns_from_those_that_were_in_the_last_step_only():
  make = functools.partial(aggregators.famo, optax.sgd(0.5))
  masks = np.stack([EVERYONE, all_but(0), EVERYONE])
  _, state = run(make, masks, losses=LOSSES, losses_after_step=AFTER)
  logits = np.asarray(state.memory["logits"])
  np.testing.assert_array_equal(logits[0], 0)
  # Of the others as if task 0 had never been.
  z = np.exp(logits[1, 1:]) / np.exp(logits[1, 1:]).sum()
  progress = np.log(np.asarray(state.memory["last_losses"])[1, 1:] / AFTER[2, 1:])
  expected = logits[1, 1:] - 0.5 * z * (progress - z @ progress)
  np.testing.assert_allclose(logits[2, 1:], expected, rtol=1e-4, atol=1e-6)
  assert logits[2, 0] == logits[1, 0] == 0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_famo_learns_nothing_by_a_loss_after_a_step_that_is_not_finite(value):
  make = functools.partial(aggregators.famo, optax.sgd(0.5))
  masks = np.ones((NUM_STEPS, NUM_TASKS), bool)
  poisoned = AFTER.at[:, 2].set(value)
  _, state = run(make, masks, losses=LOSSES, losses_after_step=poisoned)
  logits = np.asarray(state.memory["logits"])
  np.testing.assert_array_equal(logits[:, 2], 0)
  assert np.all(np.isfinite(logits))
  assert np.all(logits[-1, :2] != 0)
  assert np.all(state.weights > 0)


SIMPLEX = {
  "excess_mtl": functools.partial(aggregators.excess_mtl, 0.5),
  "moco": functools.partial(aggregators.moco, gamma=0.02),
} | TWO_BATCHES


@pytest.mark.parametrize("name", SIMPLEX)
def test_absent_tasks_return_to_the_share_they_had(name):
  masks = np.stack([EVERYONE, EVERYONE, all_but(1, 2), ~EVERYONE])
  _, state = run(SIMPLEX[name], masks)
  shares = np.asarray(state.memory["simplex_weights"])
  np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-5)
  np.testing.assert_array_equal(shares[2, [1, 2]], shares[1, [1, 2]])
  np.testing.assert_array_equal(shares[3], shares[2])
  assert abs(shares[2, 0] - shares[1, 0]) > 1e-4
  np.testing.assert_allclose(state.weights[2].sum(), 1, rtol=1e-5)


@pytest.mark.parametrize("name", ["modo", "moco", "sdmgrad"])
def test_tasks_that_had_no_weight_share_it_when_the_others_are_gone(name):
  make = {
    "modo": functools.partial(aggregators.modo, 1.0, 0.0),
    "moco": functools.partial(aggregators.moco, 1.0, 1.0, gamma_decay=0.0),
    "sdmgrad": functools.partial(aggregators.sdmgrad, 0.0),
  }[name]
  # The shortest vector is the first, then the mean of the others, which are alike.
  grads = jnp.zeros((NUM_TASKS, SIZE)).at[0, 0].set(1.0)
  grads = jnp.stack([grads.at[1:, 0].set(9.0)] * 4)
  masks = np.stack([EVERYONE, EVERYONE, all_but(0), all_but(0)])
  _, state = run(make, masks, grads)
  np.testing.assert_allclose(state.weights[1], [1, 0, 0, 0], atol=1e-6)
  np.testing.assert_allclose(state.weights[3], [0, 1 / 3, 1 / 3, 1 / 3], atol=1e-5)


def test_a_late_task_begins_with_its_own_first_step():
  masks = np.stack([all_but(0), all_but(0), EVERYONE, EVERYONE])
  run_late = functools.partial(run, masks=masks, losses=LOSSES, kpis=LOSSES / 4)
  # Where the mean is the first number itself.
  _, state = run_late(aggregators.dtp)
  np.testing.assert_allclose(state.memory["kpi"][2, 0], LOSSES[2, 0] / 4, rtol=1e-6)
  # One loss has no deviation.
  _, state = run_late(aggregators.slaw)
  assert state.weights[2, 0] == 1
  np.testing.assert_allclose(state.weights.sum(axis=1), masks.sum(axis=1), rtol=1e-5)
  # Two epochs of one step each are to be seen first.
  _, state = run_late(functools.partial(aggregators.dwa, 1))
  rate = np.append(1.0, LOSSES[2, 1:] / LOSSES[1, 1:])
  expected = NUM_TASKS * jax.nn.softmax(jnp.asarray(rate / 2.0, jnp.float32))
  np.testing.assert_allclose(state.weights[3], expected, rtol=1e-5)
  # The unit of a risk is the task's first; in that step its weight does not grow.
  _, state = run_late(functools.partial(aggregators.excess_mtl, 0.5))
  first = state.memory["first_risks"][:, 0]
  np.testing.assert_allclose(first[2:], np.abs(GRADS[2, 0]).sum(), rtol=1e-5)
  # The average is a share of the first gradient.
  _, state = run_late(functools.partial(aggregators.moco, 0.5))
  np.testing.assert_allclose(
    state.memory["average"][2, 0], 0.5 * GRADS[2, 0], rtol=1e-6
  )
  _, state = run_late(functools.partial(aggregators.gradnorm, optimizer=optax.sgd(0.1)))
  np.testing.assert_array_equal(state.memory["first_losses"][2:, 0], LOSSES[2, 0])


def test_dwa_counts_a_tasks_epochs_by_its_own_steps():
  make = functools.partial(aggregators.dwa, 2)
  order = [0, 0, 0, 2, 0]  # which task is absent
  masks = np.stack([all_but(0), *(all_but(task) for task in order[1:])])
  _, state = run(make, masks, losses=LOSSES)
  last = np.asarray(state.memory["last_epoch"])
  np.testing.assert_allclose(last[2, 1], LOSSES[:2, 1].mean(), rtol=1e-6)
  np.testing.assert_allclose(last[4, 2], LOSSES[:2, 2].mean(), rtol=1e-6)
  np.testing.assert_array_equal(last[:, 0], 0)
  np.testing.assert_allclose(state.memory["loss_sum"][-1, 0], LOSSES[3, 0], rtol=1e-6)


def test_a_negative_loss_of_db_mtl_moves_no_average():
  losses = LOSSES.at[1:, 2].set(-1.0)
  masks = np.ones((NUM_STEPS, NUM_TASKS), bool)
  _, state = run(aggregators.db_mtl, masks, losses=losses)
  average = state.memory["average"]
  np.testing.assert_array_equal(average[-1, 2], average[0, 2])
  np.testing.assert_array_equal(state.notfinite_count[-1], 0)


def test_stch_keeps_the_preferences_of_the_tasks_that_are_present():
  preferences, ideal = [0.2, 0.5, 1.3, 0.7], [0.1, 0.0, -1.0, 0.2]
  mask = all_but(0)
  make = functools.partial(aggregators.stch, 0.5, preferences=preferences, ideal=ideal)
  _, state = run(make, mask[None], losses=LOSSES.at[:, 0].set(np.nan))
  expected = aggregators.stch_weights(
    (LOSSES[0] - jnp.asarray(ideal))[1:], 0.5, jnp.asarray(preferences[1:])
  )
  np.testing.assert_allclose(state.weights[0], np.append(0, expected), rtol=1e-5)


def test_of_flat_regions_one_part_may_lose_a_task():
  tx = aggregators.flat_regions(aggregators.equal_weights(num_tasks=NUM_TASKS))
  flat_grads = INDEPENDENT[0].at[1].set(np.nan)
  updates, state = jax.jit(tx.update)(
    GRADS[0], tx.init(PARAMS), PARAMS, flat_grads=flat_grads
  )
  expected = GRADS[0].mean(0) + INDEPENDENT[0][all_but(1)].mean(0)
  np.testing.assert_allclose(updates, expected, rtol=1e-5, atol=1e-6)
  np.testing.assert_array_equal(state.plain.notfinite_count, [0, 0, 0, 0])
  np.testing.assert_array_equal(state.flat.notfinite_count, [0, 1, 0, 0])
