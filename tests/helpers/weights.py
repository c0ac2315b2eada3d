"""The weights that a method chooses for a Gramian, compiled once per method."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from maxgnr_jax import aggregators


def weigh(name, jacobian, *args, dtype=jnp.float32):
  """Weights [K] that the method chooses for the Gramian of gradients [K, D]."""
  gramian = jnp.asarray(jacobian @ jacobian.T, dtype)
  return np.asarray(_compiled(name, _quick())(gramian, *args), np.float64)


def weigh_active(name, jacobian, active, **arguments):
  """Weights [K] that the method chooses where only some tasks are active."""
  gramian = jnp.asarray(jacobian @ jacobian.T, jnp.float32)
  weights = _compiled_active(name, _quick(), **arguments)
  return np.asarray(weights(gramian, jnp.asarray(active)), np.float64)


def some_tasks(seed, num_tasks, number):
  """Which tasks are active: a random choice of `number` tasks."""
  return np.random.default_rng(seed).permutation(np.arange(num_tasks) < number)


def _quick():
  # Tests that want the usual compilation must not get what was compiled quickly.
  return jax.config.read("jax_disable_most_optimizations")


@functools.cache
def _compiled(name, quick):
  del quick
  return jax.jit(getattr(aggregators, f"{name}_weights"))


@functools.cache
def _compiled_active(name, quick, **arguments):
  del quick
  weights = getattr(aggregators, f"{name}_weights")
  return jax.jit(lambda gramian, active: weights(gramian, active=active, **arguments))
