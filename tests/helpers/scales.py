"""Gradients whose norms differ by up to ten orders of magnitude."""

import numpy as np

RATIOS = (1.0, 1e-2, 1e-4, 1e-6, 1e-8, 1e-10)
# "nearly" is of rank one apart from 1 %, which is what the cosines in float32 can tell.
KINDS = ("random", "correlated", "opposed", "parallel", "opposite", "nearly")
SIZE = 64


def gradients(kind, num_tasks, ratio, seed):
  """Stacked gradients [K, SIZE] in float32, the shortest as long as the ratio says.

  Either one task is shorter than the others, or the norms are spread evenly.
  """
  rng = np.random.default_rng([KINDS.index(kind), num_tasks, RATIOS.index(ratio), seed])
  signs = rng.permutation(np.where(np.arange(num_tasks) % 3, 1.0, -1.0))
  if seed % 2:
    norms = rng.permutation(np.geomspace(1.0, ratio, num_tasks))
  else:
    norms = np.ones(num_tasks)
    norms[rng.integers(num_tasks)] = ratio
  # Numbers of few digits, so that multiples of one gradient are exact in float32.
  common = rng.integers(-99, 100, SIZE) / 64
  if kind in ("parallel", "opposite"):
    digits, exponents = np.frexp(norms)
    norms = np.ldexp(np.round(digits * 1024) / 1024, exponents)
    rows = np.outer(signs if kind == "opposite" else np.ones(num_tasks), common)
  else:
    noise = rng.normal(size=(num_tasks, SIZE))
    rows = {
      "random": noise,
      "correlated": noise + 3 * common,
      "opposed": noise + 3 * np.outer(signs, common),
      "nearly": 1e-2 * noise + np.outer(signs, common),
    }[kind]
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
  return np.float32(rows * norms[:, None])


def battery(num_tasks):
  """Pairs of a kind and gradients, over all kinds and ratios."""
  seeds = range(4 if num_tasks < 10 else 2)
  return [
    (kind, gradients(kind, num_tasks, ratio, seed))
    for kind in KINDS
    for ratio in RATIOS
    for seed in seeds
  ]
