"""PRNG keys in the memory of aggregators that draw random numbers."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from maxgnr_jax.aggregators._base import Memory


def key_memory(key: int | jax.Array) -> Callable[[Any, Any, Any], Memory]:
  """Makes the ``init`` of a method that remembers a PRNG key.

  Args:
    key: An integer, a PRNG key, or an old-style key, a vector of uint32.

  Returns:
    A function for :class:`Method`. It starts a memory that holds the numbers of the key
    under ``"key"``, because serialisers cannot save typed keys.
  """

  def init(params: Any, shape: tuple[int, ...], dtype: Any) -> Memory:
    del params, shape, dtype
    return {"key": jax.random.key_data(_as_key(key))}

  return init


def next_key(memory: Memory, key: int | jax.Array) -> tuple[jax.Array, jax.Array]:
  """Splits the remembered key.

  Args:
    memory: Memory that holds the numbers of a key under ``"key"``.
    key: The key that the method was made with, which determines the implementation of
      the remembered key.

  Returns:
    The numbers of the key to remember for the next step, and a key for this step.
  """
  impl = jax.random.key_impl(_as_key(key))
  after, now = jax.random.split(jax.random.wrap_key_data(memory["key"], impl=impl))
  return jax.random.key_data(after), now


def _as_key(key: Any) -> jax.Array:
  """Returns an integer, a key or an old-style key as a typed PRNG key."""
  given = jnp.asarray(key)
  if jnp.issubdtype(given.dtype, jax.dtypes.prng_key):
    return given
  return jax.random.wrap_key_data(given) if given.ndim else jax.random.key(given)
