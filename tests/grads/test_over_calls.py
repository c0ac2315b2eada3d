"""The recipe of docs/ for `optax.experimental.aggregating` against microbatches."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from maxgnr_jax import aggregators, maxgnr, value_and_task_grads
from tests.grads.test_microbatches import NUM_TASKS, PARAMS, losses, make_batch
from tests.helpers.traces import jit_with_max_traces
from tests.helpers.trees import assert_trees_close, assert_trees_equal
from tests.test_pages import DOCS

CALLS, NUM_STEPS = 4, 3
pytestmark = pytest.mark.usefixtures("standard_promotion", "quick_compilation")


def recipe():
  """Names that the page's block defines; optax 0.2.6 lacks what it imports."""
  pytest.importorskip("optax.experimental")
  (block,) = re.findall(r"```py\n(.*?)```", DOCS["large-batches"], re.DOTALL)
  namespace = {"jax": jax, "jnp": jnp, "optax": optax, "maxgnr": maxgnr}
  exec(block, namespace)
  return namespace


def whole_batches():
  return [make_batch(seed) for seed in range(NUM_STEPS)]


@pytest.mark.parametrize("aggregator", [maxgnr, aggregators.uncertainty])
def test_averaging_over_calls_equals_one_step_with_microbatches(aggregator):
  tools = recipe()
  tx = tools["aggregating"].process(
    optax.with_extra_args_support(optax.identity()),
    tools["over_calls"](aggregator(num_tasks=NUM_TASKS), CALLS, NUM_TASKS),
    optax.adam(1e-2),
  )
  chain = optax.chain(aggregator(num_tasks=NUM_TASKS), optax.adam(1e-2))

  def step(params, opt_state, batch):
    _, grads = value_and_task_grads(losses)(params, batch)
    updates, opt_state = tx.update(grads, opt_state, params, losses=jnp.ones(NUM_TASKS))
    return optax.apply_updates(params, updates), opt_state

  step = jit_with_max_traces(step)

  @jax.jit
  def whole_step(params, opt_state, batch):
    _, grads = value_and_task_grads(losses, microbatches=CALLS)(params, batch)
    updates, opt_state = chain.update(
      grads, opt_state, params, losses=jnp.ones(NUM_TASKS)
    )
    return optax.apply_updates(params, updates), opt_state

  params, opt_state = PARAMS, tx.init(PARAMS)
  expected, chain_state = PARAMS, chain.init(PARAMS)
  for batch in whole_batches():
    for call in range(CALLS):
      before = params
      rows = jax.tree.map(lambda x, i=call: x[i::CALLS], batch)
      params, opt_state = step(params, opt_state, rows)
      if call < CALLS - 1:
        assert_trees_equal(params, before)
    expected, chain_state = whole_step(expected, chain_state, batch)
    assert_trees_close(params, expected, rtol=1e-3, atol=1e-5)
  aggregated = opt_state[1][1]
  assert aggregated.count == NUM_STEPS
  np.testing.assert_allclose(aggregated.weights, chain_state[0].weights, rtol=1e-3)


def test_the_readmes_transformation_steps_in_a_scan():
  tx = recipe()["tx"]
  grads = jax.tree.map(lambda p: jnp.stack([p, 3 * p]), PARAMS)

  def step(state, _):
    updates, state = tx.update(grads, state, PARAMS)
    return state, updates

  _, updates = jax.lax.scan(step, tx.init(PARAMS), None, length=8)
  moved = np.any(np.asarray(updates["trunk"]) != 0, axis=1)
  np.testing.assert_array_equal(moved, [False] * 3 + [True] + [False] * 3 + [True])


def test_multi_steps_around_an_aggregator_is_refused():
  tx = optax.MultiSteps(maxgnr(num_tasks=NUM_TASKS), 2)
  _, grads = value_and_task_grads(losses)(PARAMS, make_batch(0))
  # `MultiSteps` broadcasts its zeros: we refuse the result, or JAX refuses it first.
  message = "are not stacked|must have equal output types"
  with (
    jax.numpy_rank_promotion("allow"),
    pytest.raises((ValueError, TypeError), match=message),
  ):
    jax.eval_shape(tx.update, grads, tx.init(PARAMS), PARAMS)
