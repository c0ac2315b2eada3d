"""`flat_regions` aggregates gradients and flat parts separately."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maxgnr_jax import (
  aggregators,
)
from tests.helpers import inactive
from tests.helpers.trees import assert_trees_close

pytestmark = pytest.mark.usefixtures("quick_compilation")


def sequence(num_steps=3):
  """Gradients and flat parts of some steps, stacked over the steps."""
  rng = np.random.default_rng(0)
  drawn = rng.normal(size=(2, num_steps, 3, 4)) * [[[[1.0]]], [[[0.2]]]]
  return jnp.asarray(drawn, jnp.float32)


AGGREGATORS = {
  "moco": aggregators.moco(num_tasks=3),
  "mgda": aggregators.mgda(num_tasks=3),
  "slaw": aggregators.slaw(0.5, num_tasks=3),
}


@pytest.mark.parametrize("name", AGGREGATORS)
def test_gradients_and_flat_parts_are_aggregated_separately_in_a_scan(name):
  inner = AGGREGATORS[name]
  tx = aggregators.flat_regions(inner)
  losses = jnp.asarray(np.random.default_rng(1).uniform(size=(3, 3)), jnp.float32)

  def step(states, now):
    grads, flat_grads, values = now
    state, plain_state, flat_state = states
    updates, state = tx.update(grads, state, flat_grads=flat_grads, losses=values)
    plain, plain_state = inner.update(grads, plain_state, losses=values)
    flat, flat_state = inner.update(flat_grads, flat_state, losses=values)
    return (state, plain_state, flat_state), (updates, plain + flat)

  params = jnp.zeros(4)
  states = tx.init(params), inner.init(params), inner.init(params)
  states, (updates, expected) = jax.lax.scan(step, states, (*sequence(), losses))
  np.testing.assert_allclose(updates, expected, rtol=1e-5, atol=1e-6)
  state, plain_state, flat_state = states
  assert_trees_close(state.plain, plain_state, rtol=1e-5, atol=1e-6)
  assert_trees_close(state.flat, flat_state, rtol=1e-5, atol=1e-6)
  if name == "moco":
    weights = [s.memory["simplex_weights"] for s in (state.plain, state.flat)]
    assert not np.allclose(*weights)
  elif name != "slaw":  # SLAW's weights do not depend on gradients
    assert not np.allclose(state.plain.weights, state.flat.weights)


def test_flat_regions_without_flat_grads_explains_how_to_pass_them():
  tx = aggregators.flat_regions(aggregators.mgda())
  with pytest.raises(TypeError, match=r"needs `flat_grads`.*flat_grads=flat_grads"):
    tx.update(inactive.GRADS[0], tx.init(inactive.PARAMS), inactive.PARAMS)


def test_flat_regions_refuses_a_factory_in_place_of_an_aggregator():
  with pytest.raises(TypeError, match=r"`aggregator` must be .* such as `maxgnr\(\)`"):
    aggregators.flat_regions(aggregators.mgda)


def test_a_task_may_be_inactive_in_the_flat_part_alone():
  tx = aggregators.flat_regions(aggregators.equal_weights(num_tasks=inactive.NUM_TASKS))
  grads, params, others = inactive.GRADS[0], inactive.PARAMS, inactive.all_but(1)
  flat_grads = inactive.INDEPENDENT[0].at[1].set(np.nan)
  state = tx.init(params)
  updates, state = jax.jit(tx.update)(grads, state, params, flat_grads=flat_grads)
  expected = grads.mean(0) + flat_grads[others].mean(0)
  np.testing.assert_allclose(updates, expected, rtol=1e-5, atol=1e-6)
  np.testing.assert_array_equal(state.plain.notfinite_count, [0, 0, 0, 0])
  np.testing.assert_array_equal(state.flat.notfinite_count, [0, 1, 0, 0])
