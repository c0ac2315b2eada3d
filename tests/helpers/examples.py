"""Parameters and gradients that several tests use."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.accuracy import reference
from maxgnr_jax import maxgnr


def example_params(dtype=jnp.float32):
  """A pytree of a matrix, vectors and a scalar, two levels deep."""
  return {
    "head": {"bias": jnp.zeros((5,), dtype), "gain": jnp.ones((), dtype)},
    "trunk": (jnp.ones((3, 4), dtype), jnp.full((2,), 0.5, dtype)),
  }


def random_grads(params, num_tasks, seed=0, scales=None):
  """Stacked, normally distributed gradients, one scale for each task."""
  rng = np.random.default_rng(seed)
  scales = np.ones(num_tasks) if scales is None else np.asarray(scales)

  def leaf(p):
    drawn = rng.normal(size=(num_tasks, *p.shape))
    drawn = drawn * scales.reshape(-1, *(1,) * p.ndim)
    return jnp.asarray(drawn, p.dtype)

  return jax.tree.map(leaf, params)


def task_gradients(seed, num_tasks, decades=2, size=None):
  """Correlated gradients [K, D] with norms over ``decades`` orders of magnitude.

  By default D = 2 K.
  """
  rng = np.random.default_rng(seed)
  size = 2 * num_tasks if size is None else size
  common = rng.normal() * rng.normal(size=size)
  drawn = rng.normal(size=(num_tasks, size)) + common
  return drawn * 10 ** rng.uniform(-decades / 2, decades / 2, (num_tasks, 1))


def relative_error(actual, expected):
  """The distance of two arrays in units of the expected one's length."""
  return np.linalg.norm(actual - expected) / np.linalg.norm(expected)


def grads_sequence(params, num_tasks, num_steps, scales=None):
  """A list of stacked gradients, one for each step."""
  return [random_grads(params, num_tasks, step, scales) for step in range(num_steps)]


def default_maxgnr(num_tasks=None):
  """Returns one shared transformation, so that the tests share its compilation."""
  # Tests that want the usual compilation must not get what was compiled quickly.
  return _maxgnr(num_tasks, jax.config.read("jax_disable_most_optimizations"))


@functools.cache
def _maxgnr(num_tasks, quick):
  del quick
  return maxgnr(num_tasks=num_tasks)


def follow(tx, params, sequence):
  """Updates and states of all steps, at parameters that do not change."""
  state, history = tx.init(params), []
  update = jax.jit(tx.update)
  for grads in sequence:
    updates, state = update(grads, state, params)
    history.append((updates, state))
  return history


def first_step(tx, jacobian):
  """The update for gradients [K, D], and the state after it."""
  grads = jnp.asarray(jacobian, jnp.float32)
  updates, state = tx.update(grads, tx.init(grads[0]))
  return np.asarray(updates, np.float64), state


def scanned(tx, jacobians, **extra_args):
  """Scans T steps; returns weights [T, K], updates [T, D] and the last state.

  For methods without weights, the weights are those on the simplex that they remember,
  if they remember any.

  Args:
    tx: Transformation with ``num_tasks``.
    jacobians: [T, K, D], the gradients of a vector of parameters.
    extra_args: Arguments of ``update``, with the steps on the leading axis.
  """
  inputs = jax.tree.map(jnp.asarray, (jacobians, extra_args))

  def step(state, now):
    updates, state = tx.update(now[0], state, **now[1])
    weights = state.weights
    if weights is None:
      weights = state.memory.get("simplex_weights")
    return state, (weights, updates)

  state, (weights, updates) = jax.lax.scan(step, tx.init(inputs[0][0, 0]), inputs)
  return jax.tree.map(np.asarray, weights), np.asarray(updates), state


def rows(stacked):
  """A stacked pytree as one float64 matrix, [K, D]."""
  leaves = [np.asarray(x, np.float64) for x in jax.tree.leaves(stacked)]
  return np.concatenate([x.reshape(x.shape[0], -1) for x in leaves], axis=1)


def algorithm1(sequence, gamma=0.9, **kwargs):
  """The reference's Algorithm 1 on a sequence of stacked pytrees."""
  return reference.algorithm1([rows(grads) for grads in sequence], gamma, **kwargs)


def flat(tree):
  """A pytree as one float64 vector."""
  return np.concatenate(
    [np.asarray(x, np.float64).ravel() for x in jax.tree.leaves(tree)]
  )
