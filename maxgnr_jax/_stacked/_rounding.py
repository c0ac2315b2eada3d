"""Stochastic rounding, which makes numbers of a narrow dtype right on average."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 3))
def stochastically_rounded(
  x: jax.Array, dtype: Any, seed: jax.Array, number: int
) -> jax.Array:
  """Rounds ``x`` to a narrower dtype at random, so that its expectation is ``x``.

  Each of the two neighbours is as likely as it is near. The random number is a hash of
  the seed, the array's number and the position in the array, because a generator of
  random numbers would take longer than the whole step.

  The derivative is that of the usual conversion.

  Args:
    x: Floating-point array. NaN and infinity stay as they are.
    dtype: Floating-point dtype. One at least as precise as that of ``x`` needs no
      random rounding: ``x`` is converted as usual.
    seed: [], uint32; a different one in every step.
    number: A different one for every array.
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


@stochastically_rounded.defjvp
def _stochastically_rounded_jvp(dtype, number, primals, tangents):
  """Differentiates as if every number were rounded to the nearest one."""
  x, seed = primals
  return stochastically_rounded(x, dtype, seed, number), tangents[0].astype(dtype)


def _uniform(shape: tuple[int, ...], seed: jax.Array, number: int) -> jax.Array:
  """Draws numbers in [0, 1), float32, as hashes of each element's position."""
  position = jnp.zeros(shape, jnp.uint32)
  stride = 1
  for axis in reversed(range(len(shape))):
    index = jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
    position += index * jnp.uint32(stride % 2**32)
    stride *= shape[axis]
  start = hashed(seed.astype(jnp.uint32) ^ hashed(jnp.uint32(number + 1)))
  bits = hashed(hashed(position) + start)
  return (bits >> jnp.uint32(8)).astype(jnp.float32) * jnp.float32(2**-24)


def hashed(bits: Any) -> Any:
  """Applies the finaliser of MurmurHash3 to 32-bit integers, of JAX or of NumPy."""
  bits = (bits ^ (bits >> np.uint32(16))) * np.uint32(0x85EBCA6B)
  bits = (bits ^ (bits >> np.uint32(13))) * np.uint32(0xC2B2AE35)
  return bits ^ (bits >> np.uint32(16))
