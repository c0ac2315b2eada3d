"""PCGrad and GradVac beside their papers' loops over the gradients, in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maxgnr_jax import aggregators
from tests.examples import relative_error, task_gradients

pytestmark = pytest.mark.usefixtures("quick_compilation")
seeds = st.integers(0, 2**31 - 1)
sizes = st.sampled_from([2, 3, 5])  # few, because each is compiled
pcgrad_weights = jax.jit(aggregators.pcgrad_weights)


@functools.cache
def drawn_orders(seed, num_tasks, step=0):
  """The order in which each task meets the others, as the library draws it."""
  key = jax.random.key(seed)
  for _ in range(step + 1):
    key, now = jax.random.split(key)
  keys = jax.random.split(now, num_tasks)
  return [np.asarray(jax.random.permutation(k, num_tasks)) for k in keys]


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


def test_two_opposing_gradients_are_projected_on_each_others_normals():
  jacobian = np.array([[1.0, 0.0], [-1.0, 1.0]])
  # (1, 0) becomes (1/2, 1/2) and (-1, 1) becomes (0, 1).
  update = pcgrad_weights_for(jacobian, 0) @ jacobian
  np.testing.assert_allclose(update, [0.5, 1.5], atol=1e-6)


def test_gradients_that_do_not_conflict_are_added():
  jacobian = np.array([[1.0, 0.0, 2.0], [0.0, 1.0, 1.0], [1.0, 1.0, 0.0]])
  np.testing.assert_allclose(pcgrad_weights_for(jacobian, 0), 1, rtol=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_the_order_in_which_a_gradient_meets_the_others_matters(seed):
  jacobian = np.array([[1.0, 0.0], [-1.0, 2.0], [-1.0, 0.0]])
  # The second becomes (0, 2), the third 0. The first becomes (4/5, 2/5) after meeting
  # the second and (0, 2/5) after both; or 0 if it meets the third first.
  first, *_ = (task for task in drawn_orders(seed, 3)[0] if task != 0)
  expected = {1: [0.0, 2.4], 2: [0.0, 2.0]}[first]
  update = pcgrad_weights_for(jacobian, seed) @ jacobian
  np.testing.assert_allclose(update, expected, atol=1e-6)


def test_tasks_meet_in_different_orders_in_every_step():
  tx = aggregators.pcgrad(num_tasks=5)
  grads = jnp.asarray(task_gradients(0, 5), jnp.float32)
  state, update, weights = tx.init(grads[0]), jax.jit(tx.update), set()
  for _ in range(5):
    _, state = update(grads, state)
    weights.add(str(state.weights))
  assert len(weights) == 5


@given(seed=seeds, num_tasks=sizes)
def test_pcgrad_projects_as_its_paper_does(seed, num_tasks):
  jacobian = task_gradients(seed, num_tasks, decades=1)
  weights = pcgrad_weights_for(jacobian, seed)
  assert weights.min() >= 1
  expected = pcgrad(jacobian, drawn_orders(seed, num_tasks))
  assert relative_error(weights @ jacobian, expected) < 1e-3


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
  tx = aggregators.gradvac(beta, num_tasks=num_tasks, seed=seed)
  return tx.init, jax.jit(tx.update)


@pytest.mark.parametrize("num_tasks", [2, 4])
@pytest.mark.parametrize("beta", [0.01, 0.5])
def test_gradvac_vaccinates_as_its_paper_does(num_tasks, beta):
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
def test_two_gradients_are_brought_as_near_as_their_goal(angle, wider):
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
