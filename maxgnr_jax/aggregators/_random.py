"""The PRNG key that a random method remembers."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from maxgnr_jax.aggregators._base import Memory


def key_memory(key: int | jax.Array) -> Callable[[Any, Any, Any], Memory]:
  """Starts a memory with a PRNG ``"key"``: its numbers, which every serialiser takes.

  Args:
    key: An integer, a key, or an old-style key: a vector of uint32.
  """

  def init(params: Any, shape: tuple[int, ...], dtype: Any) -> Memory:
    del params, shape, dtype
    return {"key": jax.random.key_data(_as_key(key))}

  return init


def next_key(memory: Memory, key: int | jax.Array) -> tuple[jax.Array, jax.Array]:
  """Splits the remembered key: into what to remember next, and a key for this step.

  Args:
    memory: Holds the numbers of the remembered ``"key"``.
    key: The key that the method was given, which says what kind the numbers are of.
  """
  kind = jax.random.key_impl(_as_key(key))
  after, now = jax.random.split(jax.random.wrap_key_data(memory["key"], impl=kind))
  return jax.random.key_data(after), now


def _as_key(key: Any) -> jax.Array:
  given = jnp.asarray(key)
  if jnp.issubdtype(given.dtype, jax.dtypes.prng_key):
    return given
  return jax.random.wrap_key_data(given) if given.ndim else jax.random.key(given)
