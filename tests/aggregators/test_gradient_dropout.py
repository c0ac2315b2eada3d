"""Gradient dropout: the distribution of its noise."""

import functools

import numpy as np
import pytest

from maxgnr_jax import aggregators
from tests.helpers import coordinates
from tests.helpers.random_draws import COLUMN, MANY, SIZE, assert_share, update_of

pytestmark = pytest.mark.usefixtures("quick_compilation")


def noise_on(grads, *args):
  """The factors by which the gradient of a single task was multiplied."""
  return update_of(aggregators.gradient_dropout(*args), grads[:1]) / grads[0]


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_gaussian_noise_has_mean_one_and_the_variance_of_dropout(rate):
  factor = noise_on(MANY, rate)
  variance = rate / (1 - rate)
  assert abs(factor.mean() - 1) < 5 * np.sqrt(variance / SIZE)
  assert abs(factor.var() / variance - 1) < 5 * np.sqrt(2 / SIZE)
  # A third of normal numbers is beyond one standard deviation.
  assert_share(np.abs(factor - 1) > np.sqrt(variance), 0.3173)


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_bernoulli_noise_is_zero_or_the_inverse_of_the_kept_share(rate):
  factor = noise_on(MANY, rate, "bernoulli")
  np.testing.assert_allclose(np.unique(factor), [0, 1 / (1 - rate)], rtol=1e-6)
  assert_share(factor == 0, rate)


def test_noise_is_drawn_for_each_task_separately():
  update = update_of(aggregators.gradient_dropout(0.5, "bernoulli"), MANY)
  assert len(np.unique(update)) == 2**3


@pytest.mark.parametrize("noise", ["gaussian", "bernoulli"])
def test_gradient_dropout_at_rate_zero_is_the_mean(noise):
  update = update_of(aggregators.gradient_dropout(0.0, noise), MANY)
  np.testing.assert_allclose(update, COLUMN.mean(), rtol=1e-6)


@pytest.mark.parametrize("value", coordinates.NOT_FINITE)
@pytest.mark.parametrize("noise", ["gaussian", "bernoulli"])
def test_gradient_dropout_excludes_and_counts_tasks_with_non_finite_gradients(
  noise, value
):
  update = coordinates.update_of(
    functools.partial(aggregators.gradient_dropout, 0.5, noise), 3
  )
  grads, mask = coordinates.gradients(3), np.array([True, False, True])
  expected, _ = update(grads, mask)
  for place in range(8):
    found, state = update(grads.at[1, place].set(value), np.ones(3, bool))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(state.notfinite_count, ~mask)
