"""Tasks that take part in a step, and tasks that are absent from it."""

from typing import Any

import jax
import jax.numpy as jnp
import optax


def among(present: jax.Array, values: jax.Array) -> jax.Array:
  """[K] or [K, K] with zeros for the tasks that are not ``present`` [K]."""
  if values.ndim == 2:
    present = present[:, None] & present[None, :]
  return jnp.where(present, values, jnp.zeros((), values.dtype))


def equal_shares(present: jax.Array, dtype: Any) -> jax.Array:
  """One over the number of tasks that are ``present`` [K]; 0 for the others."""
  shares = present.astype(dtype)
  return shares / jnp.maximum(jnp.sum(shares), 1.0)


def shared_out(present: jax.Array, weights: jax.Array) -> jax.Array:
  """``weights`` [K] of the tasks that are ``present``, of the same sum as of all.

  Those of absent tasks are 0; their share goes to the others in proportion.
  """
  kept = among(present, weights)
  total = jnp.sum(kept)
  factor = jnp.sum(weights) / jnp.where(total == 0, 1.0, total)
  return jnp.where(jnp.all(present), weights, kept * factor)


def count_where(happened: jax.Array, count: jax.Array) -> jax.Array:
  """``count`` [K] and one more where it ``happened``."""
  return jnp.where(happened, optax.safe_increment(count), count)
