"""Comparisons of pytrees by chex, which also compare dtypes and PRNG keys."""

import chex
import jax
import jax.numpy as jnp
import numpy as np


def assert_trees_close(actual, expected, rtol=1e-6, atol=0.0):
  """Equal structures, shapes and dtypes, and close numbers."""
  chex.assert_trees_all_equal_shapes_and_dtypes(actual, expected)
  actual, expected = as_numbers(actual), as_numbers(expected)
  chex.assert_trees_all_close(actual, expected, rtol=rtol, atol=atol)


def assert_trees_equal(actual, expected):
  """Equal structures, shapes and dtypes, and equal numbers."""
  chex.assert_trees_all_equal_shapes_and_dtypes(actual, expected)
  chex.assert_trees_all_equal(as_numbers(actual), as_numbers(expected))


def assert_same(actual, expected):
  """Equal structures, shapes and dtypes, and numbers that are equal bit for bit."""
  chex.assert_trees_all_equal_shapes_and_dtypes(actual, expected)
  chex.assert_trees_all_equal(as_bytes(actual), as_bytes(expected))


def as_numbers(tree):
  """The pytree with the numbers that PRNG keys consist of in the keys' place."""

  def leaf(x):
    key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(x) if key else x

  return jax.tree.map(leaf, tree)


def as_bytes(tree):
  """The bytes of every leaf."""
  leaves = jax.tree.leaves(as_numbers(tree))
  return [np.frombuffer(np.asarray(x).tobytes(), np.uint8) for x in leaves]
