"""Steps in which some tasks are inactive, and everything that methods read in them."""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from tests.helpers.examples import task_gradients
from tests.helpers.trees import assert_trees_close

NUM_TASKS, NUM_STEPS, SIZE = 4, 5, 6
PARAMS = jnp.zeros(SIZE)
ALL_TASKS = np.ones(NUM_TASKS, bool)


def jacobians(seed, num_steps=NUM_STEPS):
  drawn = [task_gradients(10 * seed + i, NUM_TASKS, 1, SIZE) for i in range(num_steps)]
  return jnp.asarray(np.stack(drawn), jnp.float32)


GRADS, INDEPENDENT = jacobians(0), jacobians(1)
RNG = np.random.default_rng(0)
LOSSES = jnp.asarray(RNG.uniform(0.2, 3.0, (NUM_STEPS, NUM_TASKS)), jnp.float32)
AFTER = LOSSES * jnp.float32(0.9)


def all_but(*tasks):
  return ~np.isin(np.arange(NUM_TASKS), tasks)


# Task 0 becomes active in the third of four steps.
LATE = np.stack([all_but(0), all_but(0), ALL_TASKS, ALL_TASKS])


def run(make, masks, grads=GRADS, **extra_args):
  """Scans the steps and returns their updates and states.

  The number of tasks is that of the masks [T, K].
  """
  masks = jnp.asarray(masks)
  tx = make(num_tasks=masks.shape[1])

  @jax.jit
  def scan(state, *inputs):
    def step(state, now):
      grads, mask, extra = now
      updates, state = tx.update(grads, state, PARAMS, task_mask=mask, **extra)
      return state, (updates, state)

    return jax.lax.scan(step, state, inputs)[1]

  steps = masks.shape[0]
  extra_args = {name: x[:steps] for name, x in extra_args.items()}
  return scan(tx.init(PARAMS), grads[:steps], masks, extra_args)


def assert_same_steps(actual, expected):
  (updates, state), (right_updates, right_state) = actual, expected
  np.testing.assert_allclose(updates, right_updates, rtol=1e-5, atol=1e-6)
  without = {"notfinite_count": ()}
  assert_trees_close(
    state._replace(**without), right_state._replace(**without), rtol=1e-5, atol=1e-6
  )
  chex.assert_tree_all_finite(updates)
