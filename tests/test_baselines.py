"""Each of the other methods against its definition, in NumPy and SciPy, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from hypothesis import given
from hypothesis import strategies as st

from maxgnr_jax import aggregators
from tests.examples import (
  example_params,
  flat,
  follow,
  grads_sequence,
  relative_error,
  rows,
  task_gradients,
)

pytestmark = pytest.mark.usefixtures("quick_compilation")
seeds = st.integers(0, 2**32 - 1)
sizes = st.sampled_from([2, 3, 5, 10])
compiled = {
  name: jax.jit(getattr(aggregators, f"{name}_weights"))
  for name in ("mgda", "upgrad", "dualproj", "imtl_g", "aligned_mtl")
}


def weigh(name, jacobian):
  gramian = jnp.asarray(jacobian @ jacobian.T, jnp.float32)
  return np.asarray(compiled[name](gramian), np.float64)


@given(seed=seeds, num_tasks=sizes)
def test_mgda_is_the_shortest_vector_in_the_convex_hull(seed, num_tasks):
  jacobian = task_gradients(seed, num_tasks)
  unit = np.linalg.norm(jacobian, axis=1).min()
  # min ‖Jᵀ x‖² + (Σ x - 1)² over x ≥ 0 is a multiple of the solution.
  system = np.vstack([jacobian.T / unit, np.ones(num_tasks)])
  x, _ = scipy.optimize.nnls(system, np.append(np.zeros(len(jacobian.T)), 1.0))
  shortest = np.linalg.norm(jacobian.T @ (x / x.sum()))
  weights = weigh("mgda", jacobian)
  assert weights.min() >= 0
  assert weights.sum() == pytest.approx(1, abs=1e-6)
  assert np.linalg.norm(jacobian.T @ weights) <= 1.001 * shortest + 1e-4 * unit


def test_mgda_of_opposite_gradients_stands_still():
  weights = weigh("mgda", np.array([[2.0, 0.0], [-1.0, 0.0]]))
  np.testing.assert_allclose(weights, [1 / 3, 2 / 3], atol=1e-3)


def test_mgda_with_a_zero_gradient_stands_still():
  jacobian = np.array([[2.0, 0.0], [0.0, 0.0], [1.0, 1.0]])
  np.testing.assert_array_equal(weigh("mgda", jacobian), [0, 1, 0])


def projected(jacobian, preference):
  """Weights of the projection on the dual cone: min ‖Jᵀ w‖ over w ≥ preference."""
  excess, _ = scipy.optimize.nnls(jacobian.T, -jacobian.T @ preference)
  return preference + excess


@given(seed=seeds, num_tasks=sizes)
def test_dualproj_is_the_projection_of_the_mean(seed, num_tasks):
  jacobian = task_gradients(seed, num_tasks)
  expected = projected(jacobian, np.full(num_tasks, 1 / num_tasks))
  error = relative_error(
    jacobian.T @ weigh("dualproj", jacobian), jacobian.T @ expected
  )
  assert error < 1e-2


@given(seed=seeds, num_tasks=sizes)
def test_upgrad_is_the_mean_of_the_projections(seed, num_tasks):
  jacobian = task_gradients(seed, num_tasks)
  expected = sum(projected(jacobian, p) for p in np.eye(num_tasks) / num_tasks)
  error = relative_error(jacobian.T @ weigh("upgrad", jacobian), jacobian.T @ expected)
  assert error < 1e-2


@given(seed=seeds, num_tasks=sizes)
@pytest.mark.parametrize("name", ["upgrad", "dualproj", "mgda"])
def test_the_update_conflicts_with_no_task(name, seed, num_tasks):
  jacobian = task_gradients(seed, num_tasks)
  update = jacobian.T @ weigh(name, jacobian)
  lengths = np.linalg.norm(jacobian, axis=1) * np.linalg.norm(update)
  assert np.min(jacobian @ update / lengths) > -1e-2


@given(seed=seeds, num_tasks=sizes)
def test_imtl_g_has_the_same_projection_on_every_gradient(seed, num_tasks):
  jacobian = task_gradients(seed, num_tasks)
  weights = weigh("imtl_g", jacobian)
  update = jacobian.T @ weights
  projections = jacobian @ update / np.linalg.norm(jacobian, axis=1)
  size = np.abs(weights) @ np.linalg.norm(jacobian, axis=1)
  np.testing.assert_allclose(projections, projections.mean(), atol=1e-4 * size)
  assert weights.sum() == pytest.approx(1, abs=1e-3)


@given(seed=seeds, num_tasks=sizes)
def test_aligned_mtl_makes_the_principal_components_equally_long(seed, num_tasks):
  jacobian = task_gradients(seed, num_tasks, decades=1)
  left, singular, right = np.linalg.svd(jacobian, full_matrices=False)
  expected = singular.min() * (left @ right).mean(0)
  error = np.linalg.norm(jacobian.T @ weigh("aligned_mtl", jacobian) - expected)
  assert error < 1e-2 * np.linalg.norm(jacobian)


PARAMS = example_params()


def test_equal_weights_are_the_mean():
  grads = grads_sequence(PARAMS, 3, 1)
  updates, _ = follow(aggregators.equal_weights(), PARAMS, grads)[0]
  np.testing.assert_allclose(
    flat(updates), rows(grads[0]).mean(0), rtol=1e-5, atol=1e-6
  )


def test_constant_weights_are_the_users():
  grads = grads_sequence(PARAMS, 3, 1)
  updates, state = follow(aggregators.constant_weights([0, 2, -1]), PARAMS, grads)[0]
  expected = [0, 2, -1] @ rows(grads[0])
  np.testing.assert_allclose(flat(updates), expected, rtol=1e-5, atol=1e-6)
  np.testing.assert_array_equal(state.weights, [0, 2, -1])


@pytest.mark.parametrize("weights", [[], 1.0, [[1.0]], [1.0, float("nan")]])
def test_constant_weights_that_are_no_vector_of_numbers_are_refused(weights):
  with pytest.raises(ValueError, match="`weights` must be a vector"):
    aggregators.constant_weights(weights)


def test_constant_weights_for_other_tasks_are_refused():
  tx = aggregators.constant_weights([1.0, 2.0])
  with pytest.raises(ValueError, match="of 3 tasks, but the state is of 2"):
    tx.update(grads_sequence(PARAMS, 3, 1)[0], tx.init(PARAMS), PARAMS)


def test_inner_products_are_measured_where_tasks_share():
  seen = []

  def weighting(gramian):
    seen.append(np.asarray(gramian))
    return jnp.ones(len(gramian))

  shared = {"trunk": True, "head": False}
  tx = aggregators.gramian_method(weighting, shared=shared)
  grads = grads_sequence(PARAMS, 3, 1)[0]
  updates, _ = tx.update(grads, tx.init(PARAMS), PARAMS)
  trunk = rows(grads["trunk"])
  np.testing.assert_allclose(seen[0], trunk @ trunk.T, rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(flat(updates), rows(grads).sum(0), rtol=1e-5, atol=1e-5)


def test_a_weighting_of_another_length_is_refused():
  tx = aggregators.gramian_method(lambda gramian: jnp.ones(2))
  with pytest.raises(ValueError, match=r"one weight per task, shape \(3,\), got shape"):
    tx.update(grads_sequence(PARAMS, 3, 1)[0], tx.init(PARAMS), PARAMS)
