"""Solves Eq. 17 with NumPy and SciPy in float64, from the raw noise vectors.

The module shares no code and no algorithm with the library: SciPy's non-negative least
squares is an active-set method, exact up to rounding.
"""

from typing import NamedTuple

import numpy as np
import scipy.optimize


def task_gnr(weights, momentum_norm, noise):
  """Computes ``(w_k ‖m_k‖)² / ‖Σ_j w_j n_j‖²`` of each task; ``noise`` is [K, D]."""
  weights, noise = np.float64(weights), np.float64(noise)
  with np.errstate(divide="ignore"):
    return (weights * momentum_norm) ** 2 / np.sum((weights @ noise) ** 2)


def smallest_gnr(weights, momentum_norm, noise):
  """Computes the objective of Eq. 17, the smallest GNR of the tasks."""
  return np.min(task_gnr(weights, momentum_norm, noise))


def optimal_weights(momentum_norm, noise):
  """Computes the weights that maximise Eq. 17; all momentum norms must be positive.

  With ``v_k = w_k ‖n_k‖`` and the unit noises as the columns of N, the optimum
  minimises ``‖N v‖`` over ``v ≥ b`` with ``b_k = ‖n_k‖ / ‖m_k‖``. This is non-negative
  least squares in ``v - b``.
  """
  momentum_norm, noise = np.float64(momentum_norm), np.float64(noise)
  noise_norm = np.linalg.norm(noise, axis=1)
  noisy = noise_norm > 0
  inverse = 1 / momentum_norm
  weights = inverse.copy()
  if noisy.any():
    unit = (noise[noisy] / noise_norm[noisy, None]).T
    # With N = Q R, ‖N v‖ = ‖R v‖, so the size of the problem does not depend on D.
    _, unit = np.linalg.qr(unit)
    bound = noise_norm[noisy] * inverse[noisy]
    bound_scale = bound.max()
    bound /= bound_scale
    excess, _ = scipy.optimize.nnls(unit, -unit @ bound, maxiter=100 * bound.size)
    weights[noisy] = (bound + excess) / noise_norm[noisy] * bound_scale
  return weights / weights.sum()


def simplex_projection(point):
  """Finds the nearest point of the simplex, by a root finder on the shift."""
  shift = scipy.optimize.brentq(
    lambda s: np.maximum(point - s, 0).sum() - 1,
    point.min() - 1,
    point.max(),
    xtol=1e-15,
  )
  projected = np.maximum(point - shift, 0)
  return projected / projected.sum()


def steepest_descent_weights(momentum_norm, noise, learning_rate, num_steps):
  """Maximises the smallest GNR from uniform weights; returns the best weights found."""
  momentum_norm, noise = np.float64(momentum_norm), np.float64(noise)
  weights = np.full(len(noise), 1 / len(noise))
  best, best_value = weights, smallest_gnr(weights, momentum_norm, noise)
  for _ in range(num_steps):
    combined = weights @ noise
    power = combined @ combined
    signal = weights * momentum_norm
    worst = np.argmin(signal)
    gradient = -2 * signal[worst] ** 2 / power**2 * (noise @ combined)
    gradient[worst] += 2 * signal[worst] * momentum_norm[worst] / power
    weights = simplex_projection(weights + learning_rate * gradient)
    value = smallest_gnr(weights, momentum_norm, noise)
    if value > best_value:
      best, best_value = weights, value
  return best


class Step(NamedTuple):
  """Holds the results of one step of Algorithm 1 for K tasks and D parameters."""

  weights: np.ndarray  # [K]
  momentum: np.ndarray  # [K, D]
  noise: np.ndarray  # [K, D]
  update: np.ndarray  # [D]


def algorithm1(
  gradients, gamma=0.9, choose_weights=optimal_weights, measured=slice(None)
):
  """Runs Algorithm 1 on gradients [K, D]; ``measured`` selects the trunk's columns."""
  momentum, steps = None, []
  for gradient in gradients:
    seen = gradient[:, measured]
    first = momentum is None  # m_0 = g_0
    momentum = seen if first else gamma * momentum + (1 - gamma) * seen  # Eq. 13
    noise = seen - momentum  # Eq. 16
    weights = choose_weights(np.linalg.norm(momentum, axis=1), noise)  # Eq. 17
    steps.append(Step(weights, momentum, noise, weights @ gradient))
  return steps
