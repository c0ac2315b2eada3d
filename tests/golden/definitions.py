"""Residuals of the methods' definitions for given weights [K]; 0 if exact."""

import numpy as np
import scipy.optimize


def mgda(jacobian, weights):
  """The Frank-Wolfe gap, which bounds the squared distance to the solution."""
  products = jacobian @ (weights @ jacobian)
  return 1 - products.min() / (weights @ products)


def projected(jacobian, preference):
  """The combination `preference`, projected on the dual cone, by SciPy."""
  excess, _ = scipy.optimize.nnls(jacobian.T, -jacobian.T @ preference)
  return (preference + excess) @ jacobian


def dualproj(jacobian, weights, preferences=None):
  """The relative distance to SciPy's solution."""
  if preferences is None:
    preferences = np.full(len(jacobian), 1 / len(jacobian))
  expected = projected(jacobian, np.asarray(preferences))
  return np.linalg.norm(weights @ jacobian - expected) / np.linalg.norm(expected)


def upgrad(jacobian, weights, preferences=None):
  """The relative distance to SciPy's solution."""
  if preferences is None:
    preferences = np.full(len(jacobian), 1 / len(jacobian))
  expected = sum(projected(jacobian, row) for row in np.diag(preferences))
  return np.linalg.norm(weights @ jacobian - expected) / np.linalg.norm(expected)


def cagrad(jacobian, weights, c):
  """The relative Frank-Wolfe gap of ``⟨g_w, g_0⟩ + c ‖g_0‖ ‖g_w‖`` on the simplex."""
  excess = weights - 1 / len(weights)
  w = excess / excess.sum()
  mean, g_w = jacobian.mean(axis=0), w @ jacobian
  radius = c * np.linalg.norm(mean)
  slope = jacobian @ (mean + radius * g_w / np.linalg.norm(g_w))
  return (w @ slope - slope.min()) / (radius * np.linalg.norm(g_w))


def imtl_g(jacobian, weights):
  """The spread of the update's projections on the tasks' directions."""
  norms = np.linalg.norm(jacobian, axis=1)
  update = weights @ jacobian
  return np.ptp(jacobian @ update / norms) / np.linalg.norm(update)


def fairgrad(jacobian, weights, alpha=1.0):
  """The largest relative error in ``G w = w^(-1/α)``; α = 1 is Nash-MTL."""
  return np.abs(jacobian @ (weights @ jacobian) * weights ** (1 / alpha) - 1).max()


def krum_is_clear(jacobian, byzantine, selected):
  """Whether distances and squared distances select the same tasks, with a margin.

  TorchJD adds up distances, the paper their squares.
  """
  distances = np.linalg.norm(jacobian[:, None] - jacobian[None], axis=-1)
  closest = np.sort(distances, axis=1)[:, 1 : len(jacobian) - byzantine - 1]
  chosen = []
  for power in (1, 2):
    scores = np.sum(closest**power, axis=1)
    order = np.argsort(scores)
    last, next_one = scores[order[selected - 1 : selected + 1]]
    if next_one < 1.01 * last:
      return False
    chosen.append(set(order[:selected]))
  return chosen[0] == chosen[1]
