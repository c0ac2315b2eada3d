"""Tries a solver on many problems of Eq. 17.

Run ``python -m benchmarks.accuracy.battery``.
"""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.accuracy import reference
from maxgnr_jax import GradientStats, projected_newton

NUM_TASKS = (2, 3, 5, 10, 20, 40, 64)
CONDITION_NUMBERS = (10, 1000)
DECADES = (0, 1, 6)
NUM_SEEDS = 10


class Problem(NamedTuple):
  """Holds momentum norms [K] and noise vectors [K, D] of K tasks in float64."""

  momentum_norm: np.ndarray
  noise: np.ndarray


def independent(num_tasks, condition_number, rng):
  """Draws independent noises."""
  del condition_number
  return rng.normal(size=(num_tasks, 4 * num_tasks))


def random_spectrum(num_tasks, condition_number, rng):
  """Draws noises whose Gramian has a geometric spectrum in a random basis."""
  rotation, _ = np.linalg.qr(rng.normal(size=(num_tasks, num_tasks)))
  spectrum = np.geomspace(1, 1 / condition_number, num_tasks)
  return _with_condition((rotation * spectrum) @ rotation.T, condition_number)


def positively_equicorrelated(num_tasks, condition_number, rng):
  """Makes noises with the same positive correlation between every two tasks."""
  del rng
  correlation = (condition_number - 1) / (condition_number - 1 + num_tasks)
  return _equicorrelated(num_tasks, correlation)


def negatively_equicorrelated(num_tasks, condition_number, rng):
  """Makes noises with the same negative correlation between every two tasks."""
  del rng
  correlation = (1 - condition_number) / (1 + condition_number * (num_tasks - 1))
  return _equicorrelated(num_tasks, correlation)


def one_common_noise(num_tasks, condition_number, rng):
  """Makes all tasks share one noise with random signs, the slowest kind to solve."""
  share = rng.normal(size=num_tasks)
  return _with_condition(
    np.outer(share, share) + 1e-6 * np.eye(num_tasks), condition_number
  )


def low_rank_plus_identity(num_tasks, condition_number, rng):
  """Draws noises whose Gramian is of low rank, apart from a small multiple of I."""
  factors = rng.normal(size=(num_tasks, max(1, num_tasks // 4)))
  return _with_condition(
    factors @ factors.T + 1e-6 * np.eye(num_tasks), condition_number
  )


def nearly_opposed_pairs(num_tasks, condition_number, rng):
  """Makes pairs of nearly opposed noises, each pair in a direction of its own."""
  directions = rng.normal(size=(-(-num_tasks // 2), 2 * num_tasks))
  noise = np.repeat(directions, 2, axis=0)[:num_tasks]
  noise[1::2] *= -1
  return _with_condition(noise @ noise.T + 1e-6 * np.eye(num_tasks), condition_number)


def nearly_on_a_line(num_tasks, condition_number, rng):
  """Makes noises of one direction, or the opposite one, up to a small rest."""
  sign = rng.choice([-1.0, 1.0], size=num_tasks)
  return _with_condition(
    np.outer(sign, sign) + 1e-6 * np.eye(num_tasks), condition_number
  )


KINDS = (
  independent,
  random_spectrum,
  positively_equicorrelated,
  negatively_equicorrelated,
  low_rank_plus_identity,
  one_common_noise,
  nearly_opposed_pairs,
  nearly_on_a_line,
)


def problem(kind, num_tasks, condition_number, decades, seed):
  """Makes a problem whose noise and gradient norms each span ``decades`` decades."""
  rng = np.random.default_rng([seed, num_tasks, condition_number, decades])
  noise = kind(num_tasks, condition_number, rng)
  noise /= np.linalg.norm(noise, axis=1, keepdims=True)
  noise_norm, momentum_norm = (
    10 ** rng.permutation(np.linspace(-decades / 2, decades / 2, num_tasks))
    for _ in range(2)
  )
  return Problem(momentum_norm, noise_norm[:, None] * noise)


def gradient_stats(problem):
  """Converts a problem to the statistics that a solver takes, in float32."""
  noise_norm = np.linalg.norm(problem.noise, axis=1)
  unit = problem.noise / np.where(noise_norm > 0, noise_norm, 1)[:, None]
  arrays = GradientStats(problem.momentum_norm, noise_norm, unit @ unit.T)
  return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), arrays)


def ratios_to_optimum(
  solver, kind, num_tasks, condition_number, decades, seeds=NUM_SEEDS
):
  """Divides the value that ``solver`` reaches by the optimal one, for each seed."""
  problems = [
    problem(kind, num_tasks, condition_number, decades, seed) for seed in range(seeds)
  ]
  stats = jax.tree.map(lambda *x: jnp.stack(x), *map(gradient_stats, problems))
  weights = jax.vmap(solver.solve)(stats)
  return np.array(list(map(ratio_to_optimum, np.asarray(weights), problems)))


def ratio_to_optimum(weights, problem):
  """Divides the value of Eq. 17 at ``weights`` by the optimal one."""
  optimum = reference.smallest_gnr(reference.optimal_weights(*problem), *problem)
  return reference.smallest_gnr(weights, *problem) / optimum


def worst_ratio(
  solver, num_tasks, kinds=KINDS, conditions=CONDITION_NUMBERS, seeds=NUM_SEEDS
):
  """Returns the worst ratio over the battery's problems of K tasks."""
  cases = itertools.product(kinds, conditions, DECADES)
  return min(
    ratios_to_optimum(solver, kind, num_tasks, condition, decades, seeds).min()
    for kind, condition, decades in cases
  )


def _equicorrelated(num_tasks, correlation):
  gram = np.full((num_tasks, num_tasks), correlation)
  np.fill_diagonal(gram, 1.0)
  return np.linalg.cholesky(gram)


def _with_condition(gram, condition_number):
  """Makes vectors with the cosines of ``gram``, shrunk to the condition number."""
  scale = np.sqrt(np.diagonal(gram))
  cosine = gram / np.outer(scale, scale)
  smallest, *_, largest = np.linalg.eigvalsh(cosine)
  excess = max(largest - condition_number * smallest, 0.0)
  shrinkage = excess / (excess + condition_number - 1)
  return np.linalg.cholesky((1 - shrinkage) * cosine + shrinkage * np.eye(len(cosine)))


if __name__ == "__main__":
  overall = {}
  width = max(len(kind.__name__) for kind in KINDS)
  print("worst value over the optimum", *(f"{k:>8}" for k in NUM_TASKS))
  for kind in KINDS:
    overall[kind] = [worst_ratio(projected_newton(), k, [kind]) for k in NUM_TASKS]
    print(f"{kind.__name__:{width + 3}}", *(f"{r:8.6f}" for r in overall[kind]))
  worst = np.min(list(overall.values()), axis=0)
  print(f"{'all':{width + 3}}", *(f"{r:8.6f}" for r in worst))
  print(f"overall: {worst.min():.6f}")
