"""Stochastic rounding: what a narrow dtype cannot hold is right on average."""

from typing import Any

import jax
import jax.numpy as jnp


def stochastically_rounded(
  x: jax.Array, dtype: Any, seed: jax.Array, number: int
) -> jax.Array:
  """``x`` in a narrower dtype, whose expectation is ``x``.

  Of the two neighbours each is as likely as it is near. The draw is a hash of seed,
  array and position: a sequence of random numbers would take longer than the step.

  Args:
    x: Floating point; what is not finite stays so.
    dtype: Floating point. One that is no narrower takes ``x`` as it is.
    seed: [], uint32, another in every step.
    number: Of the array, another for every array.
  """
  near = x.astype(dtype)
  if jnp.finfo(dtype).nmant >= jnp.finfo(x.dtype).nmant:
    return near
  error = x - near.astype(x.dtype)
  towards = jnp.where(error > 0, jnp.inf, -jnp.inf).astype(dtype)
  other = jnp.nextafter(near, towards)
  gap = jnp.abs(other.astype(x.dtype) - near.astype(x.dtype))
  moves = _uniform(x.shape, seed, number).astype(x.dtype) * gap < jnp.abs(error)
  return jnp.where(moves & jnp.isfinite(other), other, near)


def _uniform(shape: tuple[int, ...], seed: jax.Array, number: int) -> jax.Array:
  """Numbers in [0, 1), float32; the finaliser of MurmurHash3 of the position."""
  position = jnp.zeros(shape, jnp.uint32)
  stride = 1
  for axis in reversed(range(len(shape))):
    index = jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
    position += index * jnp.uint32(stride % 2**32)
    stride *= shape[axis]
  start = _hash(seed.astype(jnp.uint32) ^ _hash(jnp.uint32(number + 1)))
  bits = _hash(_hash(position) + start)
  return (bits >> jnp.uint32(8)).astype(jnp.float32) * jnp.float32(2**-24)


def _hash(bits: jax.Array) -> jax.Array:
  bits = (bits ^ (bits >> jnp.uint32(16))) * jnp.uint32(0x85EBCA6B)
  bits = (bits ^ (bits >> jnp.uint32(13))) * jnp.uint32(0xC2B2AE35)
  return bits ^ (bits >> jnp.uint32(16))
