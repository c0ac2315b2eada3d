"""CAGrad against the best update in its ball."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.examples import task_gradients
from tests.helpers.near_the_mean import full_rank, length, unit_of_gain, update_of
from tests.helpers.weights import weigh

pytestmark = pytest.mark.usefixtures("quick_compilation")
seeds = st.integers(0, 2**32 - 1)


def missed_gain(jacobian, weights, c):
  """How far the smallest gain is below a bound that no update in the ball exceeds."""
  mean, radius = jacobian.mean(0), c * length(jacobian.mean(0))
  # Any weights on the simplex give a bound; the update's own weights give the lowest.
  w = weights - 1 / len(jacobian)
  g_w = w / w.sum() @ jacobian
  return g_w @ mean + radius * length(g_w) - np.min(jacobian @ (weights @ jacobian))


@given(seed=seeds, shape=full_rank, c=st.floats(0.01, 0.99))
def test_cagrad_maximises_the_smallest_gain_within_its_ball(seed, shape, c):
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
def test_cagrad_maximises_the_smallest_gain_when_gradients_cancel(
  gradients, c, float64
):
  jacobian = np.array(gradients, np.float64)
  mean = jacobian.mean(0)
  angle = np.linspace(0, 2 * np.pi, 1001)
  direction = np.stack([np.cos(angle), np.sin(angle)], axis=1)
  radius = c * length(mean) * np.linspace(0, 1, 101)
  disc = mean + radius[:, None, None] * direction
  weights = weigh("cagrad", jacobian, c, dtype=jnp.float64)
  gain = np.min(jacobian @ (weights @ jacobian))
  assert gain >= np.max(np.min(disc @ jacobian.T, axis=-1)) - 0.01


@given(seed=seeds, shape=full_rank)
def test_cagrad_with_radius_zero_is_the_mean(seed, shape):
  jacobian = task_gradients(seed, shape[0], size=shape[1])
  weights, _ = update_of("cagrad", jacobian, 0.0)
  np.testing.assert_allclose(weights, 1 / len(jacobian), rtol=1e-6)


@given(seed=seeds, shape=full_rank)
def test_a_larger_ball_of_cagrad_gives_a_larger_smallest_gain(seed, shape):
  jacobian = task_gradients(seed, shape[0], size=shape[1])
  gains = [
    np.min(jacobian @ update_of("cagrad", jacobian, c)[1]) for c in (0.0, 0.4, 0.8)
  ]
  assert np.diff(gains).min() >= -5e-4 * unit_of_gain(jacobian)
