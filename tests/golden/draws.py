"""Gradients and losses, drawn at random.

They have four digits, so that the file holds exactly what the methods were given.
"""

import functools
import zlib

import numpy as np


def correlated(rng, tasks, size, common=1.0):
  return rng.normal(size=(tasks, size)) + common * rng.normal(size=size)


def conflicting(rng, tasks, size):
  jacobian = rng.normal(size=(tasks, size))
  return jacobian - 0.8 * jacobian.mean(axis=0)


def two_decades(rng, tasks, size):
  norms = rng.permutation(np.logspace(-1, 1, tasks))
  jacobian = conflicting(rng, tasks, size)
  return jacobian / np.linalg.norm(jacobian, axis=1, keepdims=True) * norms[:, None]


def duplicate(rng, tasks, size):
  jacobian = conflicting(rng, tasks, size)
  jacobian[-1] = jacobian[0]
  return jacobian


def one_signed(rng, tasks, size):
  return np.abs(rng.normal(size=(tasks, size))) * rng.choice([-1.0, 1.0], size)


def outlier(rng, tasks, size):
  jacobian = correlated(rng, tasks, size, common=3.0)
  jacobian[1] *= -4.0
  return jacobian


KINDS = {
  "two tasks": functools.partial(conflicting, tasks=2, size=5),
  "two tasks, aligned": functools.partial(correlated, tasks=2, size=5, common=2.0),
  "two tasks, one sign": functools.partial(one_signed, tasks=2, size=6),
  "two tasks, two decades": functools.partial(two_decades, tasks=2, size=8),
  "ordinary": functools.partial(correlated, tasks=4, size=7),
  "one sign": functools.partial(one_signed, tasks=4, size=6),
  "conflicting": functools.partial(conflicting, tasks=3, size=6),
  "two decades": functools.partial(two_decades, tasks=4, size=8),
  "duplicate rows": functools.partial(duplicate, tasks=3, size=6),
  "wide": functools.partial(correlated, tasks=6, size=5, common=2.0),
  "five tasks": functools.partial(correlated, tasks=5, size=6),
  "six tasks": functools.partial(correlated, tasks=6, size=8),
  "outlier": functools.partial(outlier, tasks=5, size=7),
  "five tasks, two decades": functools.partial(two_decades, tasks=5, size=6),
}
PAIRS = [kind for kind in KINDS if kind.startswith("two tasks")]
FULL_RANK = ["two tasks", "ordinary", "conflicting", "two decades"]
CONSISTENT = [*FULL_RANK, "duplicate rows"]
ALL = [*CONSISTENT, "wide"]  # wide: more tasks than parameters
MANY = ["five tasks", "six tasks", "outlier", "five tasks, two decades"]


def digits(values, count=7):
  """The values as nested lists of numbers of `count` significant digits."""
  if np.ndim(values):
    return [digits(value, count) for value in values]
  return float(f"{values:.{count}g}")


def gradients(kind, attempt=0):
  """Gradients [K, D] of a kind."""
  rng = np.random.default_rng([zlib.crc32(kind.encode()), attempt])
  return np.array(digits(KINDS[kind](rng), 4))


def sequence(kind, length):
  """Steps with changing gradients and with losses that fall at different rates.

  The losses of the tasks are up to two decades apart.
  """
  rng = np.random.default_rng([zlib.crc32(kind.encode()), length])
  jacobian = KINDS[kind](rng)
  tasks = len(jacobian)
  spread = np.abs(jacobian).mean(axis=1, keepdims=True)
  scale = rng.permutation(np.logspace(-1, 1, tasks))
  rate = rng.uniform(0.02, 0.3, tasks)
  for step in range(length):
    noise = 0.5 * spread * rng.normal(size=(2, *jacobian.shape))
    losses = scale * np.exp(-rate * step + 0.1 * rng.normal(size=tasks))
    after = losses * np.exp(-rate + 0.05 * rng.normal(size=tasks))
    values = {
      "jacobian": jacobian + noise[0],
      "independent": jacobian + noise[1],
      "losses": losses,
      "losses_after_step": after,
    }
    yield {key: np.array(digits(value, 4)) for key, value in values.items()}
