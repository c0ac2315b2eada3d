"""CAGrad and ConicGrad against their definitions, in NumPy and SciPy, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from hypothesis import given
from hypothesis import strategies as st

from maxgnr_jax import aggregators
from tests.examples import relative_error, task_gradients

pytestmark = pytest.mark.usefixtures("quick_compilation")
seeds = st.integers(0, 2**32 - 1)
# K and D: few of them, because each K is compiled.
full_rank = st.sampled_from([(2, 4), (5, 10)])
compiled = {
  name: jax.jit(getattr(aggregators, f"{name}_weights"))
  for name in ("cagrad", "conicgrad")
}


def update_of(name, jacobian, c):
  gramian = jnp.asarray(jacobian @ jacobian.T, jnp.float32)
  weights = np.asarray(compiled[name](gramian, jnp.float32(c)), np.float64)
  assert np.all(np.isfinite(weights))
  return weights, weights @ jacobian


def length(vector):
  return np.linalg.norm(vector)


def unit_of_gain(jacobian):
  return length(jacobian.mean(0)) * np.linalg.norm(jacobian, axis=1).max()


def missed_gain(jacobian, weights, c):
  """By how much the smallest gain stays below a bound on that of the whole ball."""
  mean, radius = jacobian.mean(0), c * length(jacobian.mean(0))
  # Any weights on the simplex give a bound; those in the update the lowest.
  w = weights - 1 / len(jacobian)
  g_w = w / w.sum() @ jacobian
  return g_w @ mean + radius * length(g_w) - np.min(jacobian @ (weights @ jacobian))


@given(seed=seeds, shape=full_rank, c=st.floats(0.01, 0.99))
def test_cagrad_is_the_best_in_its_ball(seed, shape, c):
  jacobian = task_gradients(seed, shape[0], size=shape[1])
  mean = jacobian.mean(0)
  weights, update = update_of("cagrad", jacobian, c)
  assert length(update - mean) <= 1.001 * c * length(mean)
  assert weights.min() >= (1 - 1e-5) / len(jacobian)
  assert missed_gain(jacobian, weights, c) <= 5e-4 * unit_of_gain(jacobian)


@pytest.mark.parametrize(
  ("gradients", "c"),
  [
    ([[-3, 1], [3, -1], [-2, -2]], 0.5),
    ([[1, 4], [-2, 3], [2, -4]], 0.7),
    ([[2, -1], [3, -4], [-4, 3]], 0.9),
  ],
)
def test_cagrad_of_gradients_that_cancel_is_the_best_in_its_ball(gradients, c, float64):
  jacobian = np.array(gradients, np.float64)
  mean = jacobian.mean(0)
  angle = np.linspace(0, 2 * np.pi, 1001)
  direction = np.stack([np.cos(angle), np.sin(angle)], axis=1)
  radius = c * length(mean) * np.linspace(0, 1, 101)
  disc = mean + radius[:, None, None] * direction
  weights = compiled["cagrad"](jnp.asarray(jacobian @ jacobian.T), c)
  gain = np.min(jacobian @ (np.asarray(weights) @ jacobian))
  assert gain >= np.max(np.min(disc @ jacobian.T, axis=-1)) - 0.01


@given(seed=seeds, shape=full_rank)
def test_cagrad_without_a_ball_is_the_mean(seed, shape):
  jacobian = task_gradients(seed, shape[0], size=shape[1])
  weights, _ = update_of("cagrad", jacobian, 0.0)
  np.testing.assert_allclose(weights, 1 / len(jacobian), rtol=1e-6)


@given(seed=seeds, shape=full_rank)
def test_cagrad_helps_the_task_that_gains_least_the_more_the_larger_its_ball(
  seed, shape
):
  jacobian = task_gradients(seed, shape[0], size=shape[1])
  gains = [
    np.min(jacobian @ update_of("cagrad", jacobian, c)[1]) for c in (0.0, 0.4, 0.8)
  ]
  assert np.diff(gains).min() >= -5e-4 * unit_of_gain(jacobian)


def longest_reach(w, jacobian, c):
  """How far the vectors of the mean's length in the cone reach along g_w."""
  mean, g_w = jacobian.mean(0), w @ jacobian
  along = g_w @ mean / length(mean)
  if along >= c * length(g_w):
    return length(mean) * length(g_w)
  across = np.sqrt(max(g_w @ g_w - along**2, 0.0))
  return length(mean) * (c * along + np.sqrt(1 - c**2) * across)


@given(seed=seeds, shape=full_rank, c=st.floats(0.05, 0.95))
def test_conicgrad_is_the_best_in_its_cone(seed, shape, c):
  jacobian = task_gradients(seed, shape[0], decades=1, size=shape[1])
  mean, equal = jacobian.mean(0), np.full(len(jacobian), 1 / len(jacobian))
  _, update = update_of("conicgrad", jacobian, c)
  assert length(update) == pytest.approx(length(mean), rel=1e-3)
  assert update @ mean >= (c - 1e-3) * length(mean) ** 2
  # The dual problem: no vector in the cone gains more than this bound.
  bound = scipy.optimize.minimize(
    longest_reach,
    equal,
    (jacobian, c),
    bounds=[(0, 1)] * len(jacobian),
    constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
  ).fun
  assert np.min(jacobian @ update) >= bound - 1e-3 * unit_of_gain(jacobian)


@given(seed=seeds, shape=full_rank)
def test_conicgrad_in_a_cone_without_room_is_the_mean(seed, shape):
  jacobian = task_gradients(seed, shape[0], size=shape[1])
  _, update = update_of("conicgrad", jacobian, 0.99999)
  assert relative_error(update, jacobian.mean(0)) < 1e-2


def test_conicgrad_is_as_long_as_the_mean_where_it_cannot_but_conflict():
  jacobian = np.array([[-1, 1], [-1, -1], [-1, 1], [-1, -1], [9, 0]])
  _, update = update_of("conicgrad", jacobian, 0.5)
  assert length(update) == pytest.approx(length(jacobian.mean(0)), rel=1e-3)


@pytest.mark.parametrize("name", compiled)
def test_opposite_gradients_of_the_same_length_give_no_nan(name):
  _, update = update_of(name, np.array([[3.0, 1.0], [-3.0, -1.0]]), 0.5)
  np.testing.assert_allclose(update, 0, atol=1e-2)
