"""IGB against the authors' code and its formula in NumPy."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

from maxgnr_jax import aggregators
from tests.helpers import inactive
from tests.helpers.examples import scanned
from tests.helpers.loss_sequence import LOSSES, NUM_TASKS, assert_weights, softmax

pytestmark = pytest.mark.usefixtures("quick_compilation")
# Losses, and their derivatives by `ImprovableGapBalancing_v1.get_weighted_loss` in
# methods/loss_weight_methods.py of the GitHub repository YanqiDai/IGB4MTL, in float64.
# As in the trainer beside it, `base_losses` are the means of the second epoch, which
# here has the third and fourth step.
STEPS = np.array(
  [
    [0.9, 12.0, 0.03],
    [0.8, 9.0, 0.035],
    [0.75, 10.0, 0.02],
    [0.6, 7.0, 0.024],
    [0.7, 6.0, 0.01],
    [0.5, 6.5, 0.012],
  ]
)
AUTHORS = [
  [1.11111111, 0.08333333, 33.33333333],
  [1.25, 0.11111111, 28.57142857],
  [1.33333333, 0.1, 50.0],
  [1.66666667, 0.14285714, 41.66666667],
  [1.8825072, 0.15771202, 73.59728691],
  [2.10758978, 0.1660545, 72.23756945],
]


def test_igb_agrees_with_the_authors_code(float64):
  tx = aggregators.igb(2, num_tasks=3)
  weights, _, _ = scanned(tx, np.ones((len(STEPS), 3, 1)), losses=STEPS)
  np.testing.assert_allclose(weights, AUTHORS, rtol=1e-7)


@pytest.mark.parametrize("base_epoch", [1, 2])
def test_igb_weighs_log_losses_by_what_is_left_of_a_base_epoch(base_epoch, float64):
  first, last = 3 * (base_epoch - 1), 3 * base_epoch
  base = LOSSES[first:last].mean(0)
  expected = [
    (1.0 if step < last else NUM_TASKS * softmax(losses / base)) / losses
    for step, losses in enumerate(LOSSES)
  ]
  assert_weights(aggregators.igb(3, base_epoch, num_tasks=NUM_TASKS), expected)


def test_a_task_without_a_base_loss_has_weight_one():
  make = functools.partial(aggregators.igb, 1, 1)
  _, state = inactive.run(make, inactive.LATE, losses=inactive.LOSSES)
  shares = state.weights * inactive.LOSSES[: len(inactive.LATE)]
  np.testing.assert_allclose(shares[2, 0], 1.0, rtol=1e-5)
  sums = inactive.LATE.sum(axis=1)
  np.testing.assert_allclose(shares.sum(axis=1), sums, rtol=1e-5)


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_a_loss_that_is_not_positive_counts_neither_now_nor_in_the_base(value):
  tx = aggregators.igb(2, 1, num_tasks=2)
  losses = jnp.array([[2.0, 2.0], [4.0, value], [3.0, 1.0], [3.0, value]])
  weights, _, state = scanned(tx, np.ones((4, 2, 1), np.float32), losses=losses)
  np.testing.assert_array_equal(state.memory["base_losses"], [3.0, 2.0])
  np.testing.assert_allclose(weights[1], [0.25, 0.0])
  np.testing.assert_allclose(weights[2], 2 * softmax(np.array([1, 0.5])) / [3, 1], 1e-5)
  np.testing.assert_allclose(weights[3], [1 / 3, 0.0], rtol=1e-5)
