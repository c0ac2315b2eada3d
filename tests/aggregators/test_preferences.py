"""Preferences among the tasks, and the ways in which Aligned-MTL scales."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maxgnr_jax import aggregators
from tests.aggregators.test_derivatives_of_weights import PATHS, assert_derivative
from tests.aggregators.test_dualproj import projected
from tests.helpers.examples import relative_error, task_gradients

pytestmark = pytest.mark.usefixtures("quick_compilation")
seeds = st.integers(0, 2**32 - 1)
NAMES = ("aligned_mtl", "config", "dualproj", "upgrad")
PREFERENCES = np.array([0.5, 0.0, 1.5, 1.0])  # none for the second task
SCALES = {"min": np.min, "median": np.median, "rmse": lambda s: np.sqrt(np.mean(s**2))}


@functools.cache
def weighting(name, **arguments):
  weigh = getattr(aggregators, f"{name}_weights")
  return jax.jit(functools.partial(weigh, **arguments))


def updated(name, jacobian, preferences, **arguments):
  gramian = jnp.asarray(jacobian @ jacobian.T, jnp.float32)
  weights = weighting(name, **arguments)(
    gramian, preferences=jnp.asarray(preferences, jnp.float32)
  )
  return np.asarray(weights, np.float64) @ jacobian


@given(seed=seeds)
def test_upgrad_and_dualproj_project_what_is_preferred(seed):
  jacobian = task_gradients(seed, 4)
  expected = {
    "dualproj": projected(jacobian, PREFERENCES),
    "upgrad": sum(projected(jacobian, p) for p in np.diag(PREFERENCES)),
  }
  for name, weights in expected.items():
    update = updated(name, jacobian, PREFERENCES)
    assert relative_error(update, weights @ jacobian) < 1e-4


@given(seed=seeds)
def test_the_cosines_of_config_have_the_ratios_of_the_preferences(seed):
  jacobian = task_gradients(seed, 4, decades=1)
  update = updated("config", jacobian, PREFERENCES)
  cosines = jacobian @ update / np.linalg.norm(jacobian, axis=1)
  cosines /= np.linalg.norm(update)
  expected = PREFERENCES * cosines.max() / PREFERENCES.max()
  np.testing.assert_allclose(cosines, expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("mode", SCALES)
@given(seed=seeds)
def test_aligned_mtl_gives_preferred_components_the_length_of_its_scale(mode, seed):
  jacobian = task_gradients(seed, 5, decades=4)
  preferences = np.array([0.5, 0.0, 1.5, 1.0, 2.0])
  left, singular, right = np.linalg.svd(jacobian, full_matrices=False)
  expected = SCALES[mode](singular) * preferences @ left @ right
  update = updated("aligned_mtl", jacobian, preferences, scale_mode=mode)
  assert relative_error(update, expected) < 1e-3


def test_aligned_mtl_takes_the_lower_of_two_medians():
  weights = aggregators.aligned_mtl_weights(
    jnp.diag(jnp.array([1.0, 4.0, 9.0, 16.0])), scale_mode="median"
  )
  np.testing.assert_allclose(weights, 2 / np.array([1.0, 2.0, 3.0, 4.0]) / 4, rtol=1e-6)


@pytest.mark.parametrize("mode", ["median", "rmse"])
def test_components_that_are_missing_do_not_count_in_the_scale(mode):
  jacobian = np.array([[1.0, 0.0], [0.0, 2.0], [0.0, 0.0], [3.0, 0.0]])
  gramian = jnp.asarray(jacobian @ jacobian.T)
  left, singular, right = np.linalg.svd(jacobian, full_matrices=False)
  scale = singular.min() if mode == "median" else SCALES[mode](singular)
  weights = weighting("aligned_mtl", scale_mode=mode)(gramian)
  expected = scale * (left @ right).mean(0)
  np.testing.assert_allclose(weights @ jacobian, expected, rtol=1e-5)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("mode", ["median", "rmse"])
def test_derivatives_are_those_of_central_differences(mode, path, float64):
  assert_derivative(weighting("aligned_mtl", scale_mode=mode), path)


@pytest.mark.parametrize("name", NAMES)
def test_equal_preferences_are_the_default(name):
  gramian = jnp.asarray(task_gradients(0, 4) @ task_gradients(0, 4).T)
  equal = weighting(name)(gramian, preferences=jnp.full(4, 0.25))
  np.testing.assert_allclose(equal, weighting(name)(gramian), rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_active_tasks_share_the_total(name):
  jacobian = task_gradients(0, 4)
  preferences = np.array([1.0, 5.0, 2.0, 3.0])
  active = np.array([True, False, True, True])
  tx = getattr(aggregators, name)(preferences=preferences, num_tasks=4)
  grads = jnp.asarray(jacobian, jnp.float32)
  state = tx.init(grads[0])
  updates, state = tx.update(grads, state, task_mask=jnp.asarray(active))
  shares = preferences[active] * preferences.sum() / preferences[active].sum()
  expected = updated(name, jacobian[active], shares)
  assert state.weights[1] == 0
  assert relative_error(np.asarray(updates), expected) < 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_active_tasks_without_preference_are_equal(name):
  jacobian = task_gradients(1, 3)
  tx = getattr(aggregators, name)(preferences=[0.0, 0.0, 2.0], num_tasks=3)
  grads = jnp.asarray(jacobian, jnp.float32)
  mask = jnp.array([True, True, False])
  updates, _ = tx.update(grads, tx.init(grads[0]), task_mask=mask)
  expected = updated(name, jacobian[:2], [1.0, 1.0])
  assert relative_error(np.asarray(updates), expected) < 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_preferences_can_be_scheduled(name):
  def schedule(count):
    return jnp.where(count == 0, jnp.array([3.0, 1.0]), jnp.array([1.0, 3.0]))

  factory = getattr(aggregators, name)
  tx = optax.inject_hyperparams(factory)(preferences=schedule, num_tasks=2)
  grads = jnp.asarray(task_gradients(2, 2), jnp.float32)
  state = tx.init(grads[0])
  for count in range(2):
    updates, state = tx.update(grads, state)
    fixed = factory(preferences=schedule(count).tolist(), num_tasks=2)
    expected, _ = fixed.update(grads, fixed.init(grads[0]))
    np.testing.assert_allclose(updates, expected, rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_preferences_for_another_number_of_tasks_are_an_error(name):
  tx = getattr(aggregators, name)(preferences=[1.0, 2.0])
  message = r"`preferences` must hold one number per task, shape \(3,\), got shape"
  with pytest.raises(ValueError, match=message):
    tx.update(jnp.eye(3), tx.init(jnp.zeros(3)))


@pytest.mark.parametrize("name", NAMES)
def test_preferences_with_names_are_an_error(name):
  with pytest.raises(TypeError, match="`preferences` must be a list or a vector"):
    getattr(aggregators, name)(preferences={"depth": 1.0, "normals": 2.0})
