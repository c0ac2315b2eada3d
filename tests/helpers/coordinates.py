"""First updates of methods that choose coordinate by coordinate, under a task mask."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from tests.helpers.examples import task_gradients

SIZE = 40
NOT_FINITE = [np.nan, np.inf, -np.inf]


def gradients(num_tasks, seed=0):
  return jnp.asarray(task_gradients(seed, num_tasks, 1, SIZE), jnp.float32)


@functools.cache
def update_of(make, num_tasks):
  tx = make(num_tasks=num_tasks)

  @jax.jit
  def update(grads, mask):
    return tx.update(grads, tx.init(grads[0]), task_mask=mask)

  return update
