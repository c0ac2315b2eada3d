"""The random orders in which PCGrad and GradVac compare tasks."""

import functools

import jax
import numpy as np


@functools.cache
def drawn_orders(seed, num_tasks, step=0):
  """The order in which each task meets the others, as the library draws it."""
  key = jax.random.key(seed)
  for _ in range(step + 1):
    key, now = jax.random.split(key)
  keys = jax.random.split(now, num_tasks)
  return [np.asarray(jax.random.permutation(k, num_tasks)) for k in keys]
