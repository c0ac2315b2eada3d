"""PCGrad beside its paper's loop over the gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maxgnr_jax import aggregators
from tests.helpers.examples import relative_error, task_gradients
from tests.helpers.orders import drawn_orders

pytestmark = pytest.mark.usefixtures("quick_compilation")
seeds = st.integers(0, 2**31 - 1)
sizes = st.sampled_from([2, 3, 5])  # few, because each is compiled
pcgrad_weights = jax.jit(aggregators.pcgrad_weights)


def pcgrad(jacobian, orders):
  """Yu et al., Algorithm 1."""
  projected = jacobian.copy()
  for task, order in enumerate(orders):
    for other in order:
      product = projected[task] @ jacobian[other]
      if other != task and product < 0:
        length = jacobian[other] @ jacobian[other]
        projected[task] -= product / length * jacobian[other]
  return projected.sum(0)


def pcgrad_weights_for(jacobian, seed):
  """The library's, with the key that its first step uses."""
  _, key = jax.random.split(jax.random.key(seed))
  gramian = jnp.asarray(jacobian @ jacobian.T, jnp.float32)
  return np.asarray(pcgrad_weights(gramian, key), np.float64)


def test_pcgrad_projects_two_conflicting_gradients_on_each_others_normal_planes():
  jacobian = np.array([[1.0, 0.0], [-1.0, 1.0]])
  # (1, 0) becomes (1/2, 1/2) and (-1, 1) becomes (0, 1).
  update = pcgrad_weights_for(jacobian, 0) @ jacobian
  np.testing.assert_allclose(update, [0.5, 1.5], atol=1e-6)


def test_pcgrad_adds_gradients_that_do_not_conflict():
  jacobian = np.array([[1.0, 0.0, 2.0], [0.0, 1.0, 1.0], [1.0, 1.0, 0.0]])
  np.testing.assert_allclose(pcgrad_weights_for(jacobian, 0), 1, rtol=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_pcgrad_depends_on_the_drawn_order_of_projections(seed):
  jacobian = np.array([[1.0, 0.0], [-1.0, 2.0], [-1.0, 0.0]])
  # The second becomes (0, 2), the third 0. The first becomes (4/5, 2/5) after meeting
  # the second and (0, 2/5) after both; or 0 if it meets the third first.
  first, *_ = (task for task in drawn_orders(seed, 3)[0] if task != 0)
  expected = {1: [0.0, 2.4], 2: [0.0, 2.0]}[first]
  update = pcgrad_weights_for(jacobian, seed) @ jacobian
  np.testing.assert_allclose(update, expected, atol=1e-6)


def test_pcgrad_draws_a_new_order_in_every_step():
  tx = aggregators.pcgrad(num_tasks=5)
  grads = jnp.asarray(task_gradients(0, 5), jnp.float32)
  state, update, weights = tx.init(grads[0]), jax.jit(tx.update), set()
  for _ in range(5):
    _, state = update(grads, state)
    weights.add(str(state.weights))
  assert len(weights) == 5


@given(seed=seeds, num_tasks=sizes)
def test_pcgrad_follows_its_papers_loop(seed, num_tasks):
  jacobian = task_gradients(seed, num_tasks, decades=1)
  weights = pcgrad_weights_for(jacobian, seed)
  assert weights.min() >= 1
  expected = pcgrad(jacobian, drawn_orders(seed, num_tasks))
  assert relative_error(weights @ jacobian, expected) < 1e-3


def test_pcgrad_of_the_active_tasks_has_the_outcomes_of_these_tasks_alone():
  angles = np.radians([0, 30, 110, 230, 170])
  jacobian = np.stack([np.cos(angles), np.sin(angles)], axis=1)
  active = np.array([True, False, True, True, False])
  gramian = jnp.asarray(jacobian @ jacobian.T, jnp.float32)
  keys = jax.random.split(jax.random.key(0), 200)

  def outcomes(gramian, active):
    weigh = functools.partial(aggregators.pcgrad_weights, gramian, active=active)
    weights = np.asarray(jax.jit(jax.vmap(weigh))(keys))
    return weights, {tuple(w) for w in np.round(weights[:, active], 3)}

  weights, found = outcomes(gramian, active)
  _, expected = outcomes(gramian[active][:, active], np.ones(3, bool))
  assert found == expected
  assert len(found) > 1
  np.testing.assert_array_equal(weights[:, ~active], 0)
