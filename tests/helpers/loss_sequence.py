"""Losses and gradients of a few steps, and optimisers written out in NumPy."""

import numpy as np
import optax
import scipy.optimize

from tests.helpers.examples import scanned

NUM_TASKS, NUM_STEPS = 3, 9
RNG = np.random.default_rng(0)
LOSSES = np.array([0.1, 1.0, 20.0]) * np.exp(
  -np.outer(range(NUM_STEPS), [0.3, 0.1, 0.02])
  + 0.2 * RNG.normal(size=(NUM_STEPS, NUM_TASKS))
)
JACOBIANS = RNG.normal(size=(NUM_STEPS, NUM_TASKS, 4)) * [[[0.1], [1.0], [5.0]]]


def assert_weights(tx, expected, **extra_args):
  """Compares the weights of all steps, and the updates with their weighted sums."""
  extra_args = {"losses": LOSSES} | extra_args
  weights, updates, _ = scanned(tx, JACOBIANS, **extra_args)
  np.testing.assert_allclose(weights, expected, rtol=1e-9)
  sums = np.einsum("tk,tkd->td", np.array(expected), JACOBIANS)
  np.testing.assert_allclose(updates, sums, rtol=1e-9, atol=1e-12)


def softmax(values):
  return np.exp(values) / np.sum(np.exp(values))


def descend(slope, rate):
  """Yields the position before each step of gradient descent from 0."""
  s = np.zeros(NUM_TASKS)
  for losses in LOSSES:
    yield s.copy()
    s -= rate * slope(s, losses)


def adam(slope, rate, b1=0.9, b2=0.999, eps=1e-8):
  """Yields the position before each step of Adam (Kingma and Ba, Algorithm 1)."""
  s, m, v = (np.zeros(NUM_TASKS) for _ in range(3))
  for step, losses in enumerate(LOSSES, start=1):
    yield s.copy()
    g = slope(s, losses)
    m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
    s -= rate * m / (1 - b1**step) / (np.sqrt(v / (1 - b2**step)) + eps)


OPTIMIZERS = [(optax.sgd, descend), (optax.adam, adam)]


def assert_weights_are_derivatives(tx, function):
  """Compares the weights at three points with finite differences by SciPy."""
  losses = np.array([[0.3, 2.0, 0.9], [1.0, 1.0, 1.0], [3.0, 0.5, 0.1]])
  weights, _, _ = scanned(tx, np.ones((3, NUM_TASKS, 1)), losses=losses)
  for actual, point in zip(weights, losses, strict=True):
    expected = scipy.optimize.approx_fprime(point, function, 1e-7)
    np.testing.assert_allclose(actual, expected, atol=1e-6)
