"""Gradients of a few steps on two batches, and the projection on the simplex."""

import numpy as np
import scipy.optimize

from tests.helpers.examples import scanned

NUM_TASKS, NUM_STEPS, SIZE = 3, 6, 5
RNG = np.random.default_rng(0)
SCALES = np.array([[0.3], [1.0], [2.0]])
COMMON = RNG.normal(size=(NUM_TASKS, SIZE))
JACOBIANS, INDEPENDENT = SCALES * (
  COMMON + 0.5 * RNG.normal(size=(2, NUM_STEPS, NUM_TASKS, SIZE))
)
LOSSES = RNG.uniform(0.1, 3.0, (NUM_STEPS, NUM_TASKS))
EQUAL = np.full(NUM_TASKS, 1 / NUM_TASKS)


def projected(vector):
  """Projects on the simplex; bisection finds the threshold to subtract."""

  def excess(threshold):
    return np.maximum(vector - threshold, 0).sum() - 1

  threshold = scipy.optimize.brentq(
    excess, vector.min() - 1, vector.max(), xtol=1e-14, rtol=1e-14
  )
  return np.maximum(vector - threshold, 0)


def assert_steps(tx, weights, updates, **extra_args):
  actual_weights, actual_updates, state = scanned(tx, JACOBIANS, **extra_args)
  np.testing.assert_allclose(actual_weights, weights, rtol=1e-8)
  np.testing.assert_allclose(actual_updates, updates, rtol=1e-8, atol=1e-10)
  return state
