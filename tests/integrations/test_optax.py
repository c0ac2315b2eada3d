"""`maxgnr` in optax's wrappers and ahead-of-time compilation, beside plain loops."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from maxgnr_jax import maxgnr, value_and_task_grads
from tests.helpers.examples import (
  algorithm1,
  default_maxgnr,
  example_params,
  flat,
  follow,
  grads_sequence,
  random_grads,
  rows,
)
from tests.helpers.trees import assert_trees_close, assert_trees_equal

pytestmark = pytest.mark.usefixtures("standard_promotion", "quick_compilation")
PARAMS, NUM_TASKS, NUM_STEPS = example_params(), 3, 4


def sequence():
  return grads_sequence(PARAMS, NUM_TASKS, NUM_STEPS)


def losses(params, x):
  hidden = jnp.tanh(params["trunk"][0] @ x) + params["head"]["gain"]
  return {
    "bias": jnp.sum(jnp.cos(params["trunk"][1])),
    "fit": 100.0 * jnp.mean((hidden - x[0]) ** 2),
    "size": jnp.sum(hidden**2),
  }


def batches():
  return jnp.asarray(np.random.default_rng(0).normal(size=(NUM_STEPS, 4)), jnp.float32)


def assert_close(updates, expected):
  np.testing.assert_allclose(flat(updates), expected, rtol=1e-3, atol=1e-3)


@functools.cache
def trained_by_hand():
  """The parameters after a loop that calls the aggregator, then the optimiser."""
  aggregator, adam = default_maxgnr(NUM_TASKS), optax.adam(1e-2)
  params, states = PARAMS, [aggregator.init(PARAMS), adam.init(PARAMS)]
  task_grads = jax.jit(jax.jacrev(lambda *args: jnp.stack([*losses(*args).values()])))
  for x in batches():
    grads = task_grads(params, x)
    updates, states[0] = jax.jit(aggregator.update)(grads, states[0], params)
    updates, states[1] = adam.update(updates, states[1], params)
    params = optax.apply_updates(params, updates)
  return params


def train_step(tx):
  def step(params, opt_state, x):
    values, grads = value_and_task_grads(losses)(params, x)
    updates, opt_state = tx.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, values

  return step


def test_a_chain_with_adam_in_a_jitted_step_equals_the_written_out_loop():
  tx = optax.chain(maxgnr(gamma=0.9), optax.adam(1e-2))
  step = jax.jit(train_step(tx))
  params, opt_state = PARAMS, tx.init(PARAMS)
  for x in batches():
    params, opt_state, values = step(params, opt_state, x)
  assert list(values) == ["bias", "fit", "size"]
  assert_trees_close(params, trained_by_hand(), rtol=1e-3, atol=1e-4)
  assert np.max(np.abs(flat(params) - flat(PARAMS))) > 0.01


def test_a_chain_with_adam_in_a_scan_equals_the_written_out_loop():
  tx = optax.chain(maxgnr(gamma=0.9, num_tasks=3), optax.adam(1e-2))
  step = train_step(tx)

  def body(carry, x):
    params, opt_state, values = step(*carry, x)
    return (params, opt_state), values

  (params, _), values = jax.lax.scan(body, (PARAMS, tx.init(PARAMS)), batches())
  assert values["fit"].shape == (NUM_STEPS,)
  assert_trees_close(params, trained_by_hand(), rtol=1e-3, atol=1e-4)


def test_a_step_compiled_ahead_of_time_serves_every_step():
  tx = optax.chain(maxgnr(gamma=0.9, num_tasks=3), optax.adam(1e-2))
  params, opt_state = PARAMS, tx.init(PARAMS)
  step = jax.jit(train_step(tx)).lower(params, opt_state, batches()[0]).compile()
  for x in batches():
    params, opt_state, _ = step(params, opt_state, x)
  assert_trees_close(params, trained_by_hand(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("static_args", [("num_tasks",), ()])
def test_a_schedule_of_gamma_decays_the_momentum(static_args):
  gammas = jnp.array([0.9, 0.5, 0.0, 0.7])
  tx = optax.inject_hyperparams(maxgnr, static_args=static_args)(
    gamma=lambda step: gammas[step], num_tasks=NUM_TASKS
  )
  momentum = rows(sequence()[0])
  history = follow(tx, PARAMS, sequence())
  for step, (grads, (_, state)) in enumerate(zip(sequence(), history, strict=True)):
    gamma = float(gammas[step])
    momentum = gamma * momentum + (1 - gamma) * rows(grads)
    assert state.hyperparams["gamma"] == gammas[step]
    np.testing.assert_allclose(
      rows(optax.tree.get(state, "momentum")), momentum, rtol=1e-5, atol=1e-6
    )


def test_an_injected_gamma_can_be_set_from_outside():
  tx = optax.inject_hyperparams(maxgnr)(gamma=0.9)
  _, state = follow(tx, PARAMS, sequence())[-1]
  state.hyperparams["gamma"] = jnp.asarray(0.25)
  grads = random_grads(PARAMS, NUM_TASKS, 99)
  expected = 0.25 * rows(state.inner_state.momentum) + 0.75 * rows(grads)
  _, state = jax.jit(tx.update)(grads, state, PARAMS)
  np.testing.assert_allclose(
    rows(state.inner_state.momentum), expected, rtol=1e-5, atol=1e-6
  )


def test_a_traced_num_tasks_raises_an_error_that_says_to_make_it_static():
  tx = optax.inject_hyperparams(maxgnr)(gamma=0.9, num_tasks=NUM_TASKS)
  with pytest.raises(TypeError, match=r'`num_tasks`.*static_args=\("num_tasks",\)'):
    jax.jit(tx.init)(PARAMS)


def test_optax_masked_aggregates_only_the_selected_leaves():
  mask = {"head": False, "trunk": True}
  history = follow(optax.masked(maxgnr(num_tasks=3), mask), PARAMS, sequence())
  expected = algorithm1([grads["trunk"] for grads in sequence()])
  for grads, (updates, state), step in zip(sequence(), history, expected, strict=True):
    np.testing.assert_allclose(state.inner_state.weights, step.weights, rtol=1e-3)
    assert_close(updates["trunk"], step.update)
    # `optax.masked` passes leaves that are not selected through, still stacked.
    assert_trees_equal(updates["head"], grads["head"])


def test_optax_masked_with_shared_measures_the_selected_trunk():
  mask = {"head": False, "trunk": True}
  shared = {"head": optax.MaskedNode(), "trunk": (True, False)}
  tx = optax.masked(maxgnr(shared=shared), mask)
  expected = algorithm1([grads["trunk"][0] for grads in sequence()])[-1]
  updates, state = follow(tx, PARAMS, sequence())[-1]
  np.testing.assert_allclose(state.inner_state.weights, expected.weights, rtol=1e-3)
  assert updates["trunk"][1].shape == PARAMS["trunk"][1].shape


def test_optax_partition_weights_each_label_separately():
  transforms = {
    label: optax.chain(maxgnr(num_tasks=NUM_TASKS), optax.scale(factor))
    for label, factor in (("trunk", -1.0), ("head", -10.0), ("unused", -100.0))
  }
  tx = optax.partition(transforms, {"head": "head", "trunk": "trunk"})
  history = follow(tx, PARAMS, sequence())
  for part, factor in (("trunk", -1.0), ("head", -10.0)):
    expected = algorithm1([grads[part] for grads in sequence()])
    for (updates, _), step in zip(history, expected, strict=True):
      assert_close(updates[part], factor * step.update)


def test_optax_partition_freezes_parameters_beside_maxgnr():
  tx = optax.partition(
    {"train": maxgnr(num_tasks=NUM_TASKS), "freeze": frozen()},
    {"head": "freeze", "trunk": "train"},
  )
  updates, _ = follow(tx, PARAMS, sequence())[-1]
  np.testing.assert_array_equal(flat(updates["head"]), 0)
  expected = algorithm1([grads["trunk"] for grads in sequence()])[-1]
  assert_close(updates["trunk"], expected.update)


def test_optax_aggregating_process_equals_the_chain():
  aggregating = pytest.importorskip("optax.experimental").aggregating
  clip = optax.stateless(lambda grads, _: jax.tree.map(lambda g: g.clip(-1, 1), grads))
  tx = aggregating.process(clip, maxgnr(num_tasks=NUM_TASKS), optax.adam(1e-2))
  clipped = jax.tree.map(lambda g: g.clip(-1, 1), sequence())
  chained = optax.chain(default_maxgnr(NUM_TASKS), optax.adam(1e-2))
  expected = follow(chained, PARAMS, clipped)
  for (updates, _), (expected_updates, _) in zip(
    follow(tx, PARAMS, sequence()), expected, strict=True
  ):
    assert_trees_close(updates, expected_updates, rtol=1e-3, atol=1e-6)


def test_transformations_after_maxgnr_may_accumulate_steps():
  tx = optax.chain(
    maxgnr(num_tasks=NUM_TASKS),
    optax.MultiSteps(optax.sgd(1.0), every_k_schedule=2).gradient_transformation(),
  )
  history = [updates for updates, _ in follow(tx, PARAMS, sequence())]
  aggregated = [step.update for step in algorithm1(sequence())]
  for first, second in ((0, 1), (2, 3)):
    np.testing.assert_array_equal(flat(history[first]), 0)
    assert_close(history[second], -(aggregated[first] + aggregated[second]) / 2)


def frozen():
  """Zeros with the parameters' shapes, unlike `set_to_zero`, which keeps stacks."""
  return optax.stateless(lambda grads, params: jax.tree.map(jnp.zeros_like, params))
