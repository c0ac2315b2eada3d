"""GradVac beside its paper's loop over the gradients."""

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


def gradvac(jacobian, goals, orders, beta):
  """Wang et al., Eq. 2 and 3; the update and the next goals."""
  vaccinated, goals = jacobian.copy(), goals.copy()
  norms = np.linalg.norm(jacobian, axis=1)
  for task, order in enumerate(orders):
    for other in order[order != task]:
      length = np.linalg.norm(vaccinated[task])
      cosine = vaccinated[task] @ jacobian[other] / length / norms[other]
      goal = goals[task, other]
      if cosine < goal:
        sine, goal_sine = np.sqrt(1 - cosine**2), np.sqrt(1 - goal**2)
        needed = (
          length * (goal * sine - cosine * goal_sine) / (norms[other] * goal_sine)
        )
        vaccinated[task] += needed * jacobian[other]
      goals[task, other] += beta * (cosine - goal)
  return vaccinated.sum(0), goals


@functools.cache
def gradvac_of(num_tasks, beta, seed=0):
  tx = aggregators.gradvac(beta, num_tasks=num_tasks, key=seed)
  return tx.init, jax.jit(tx.update)


@pytest.mark.parametrize("num_tasks", [2, 4])
@pytest.mark.parametrize("beta", [0.01, 0.5])
def test_gradvac_follows_its_papers_loop(num_tasks, beta):
  init, update = gradvac_of(num_tasks, beta)
  goals = np.zeros((num_tasks, num_tasks))
  state = init(jnp.zeros(2 * num_tasks))
  for step in range(6):
    jacobian = task_gradients(step, num_tasks, decades=1)
    updates, state = update(jnp.asarray(jacobian, jnp.float32), state)
    orders = drawn_orders(0, num_tasks, step)
    expected, goals = gradvac(jacobian, goals, orders, beta)
    assert relative_error(updates, expected) < 1e-3
    np.testing.assert_allclose(state.memory["goals"], goals, atol=1e-4)
  assert np.ptp(goals) > 0.01


@given(angle=st.floats(0.2, 1.3), wider=st.floats(0.2, 1.5))
def test_gradvac_brings_the_cosine_of_two_gradients_to_their_goal(angle, wider):
  init, update = gradvac_of(2, 1.0)

  def at(angle):
    return np.array([[1.0, 0.0], [2 * np.cos(angle), 2 * np.sin(angle)]])

  state = init(jnp.zeros(2))
  _, state = update(jnp.asarray(at(angle), jnp.float32), state)
  np.testing.assert_array_equal(state.weights, 1)
  goal = np.cos(angle)
  assert state.memory["goals"][0, 1] == pytest.approx(goal, abs=1e-5)
  jacobian = at(angle + wider)
  _, state = update(jnp.asarray(jacobian, jnp.float32), state)
  ours, theirs = jacobian
  brought = ours + (float(state.weights[1]) - 1) * theirs
  cosine = brought @ theirs / np.linalg.norm(brought) / np.linalg.norm(theirs)
  assert cosine == pytest.approx(goal, abs=1e-3)


def test_gradvac_updates_the_goal_of_a_pair_only_while_both_tasks_are_active():
  tx = aggregators.gradvac(beta=0.5, num_tasks=4)
  grads = jnp.asarray(task_gradients(0, 4), jnp.float32)
  step = jax.jit(lambda grads, state, mask: tx.update(grads, state, task_mask=mask))
  _, before = step(grads, tx.init(grads[0]), jnp.ones(4, bool))
  active = np.array([True, False, True, True])
  _, after = step(grads[::-1], before, jnp.asarray(active))
  both = active[:, None] & active[None, :] & ~np.eye(4, dtype=bool)
  moved = np.asarray(before.memory["goals"] != after.memory["goals"])
  np.testing.assert_array_equal(moved, both)
