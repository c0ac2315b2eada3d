"""The count sketch of stacked gradients: a few thousand numbers that keep geometry.

A sketch adds up a task's D numbers, with random signs, in far fewer buckets. It is
linear, and inner products of two tasks' sketches are those of their gradients up to an
error of about ``sqrt(2 / size)`` of the product of their norms.

Number p of parameter l, counted in row-major order over the whole parameter, has the
*place* ``p + offset(l)``. Its bucket is the place modulo ``size``, and its *block* the
place divided by ``size``. A hash of parameter, bucket and ``block // 32`` gives 32 bits,
one for each of 32 blocks: the signs. All that depends on neither tasks nor devices.
"""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from maxgnr_jax._stacked._rounding import hashed
from maxgnr_jax._stacked._sharding import Reduce, Shard, over_parameters
from maxgnr_jax._stacked._sums import in_place
from maxgnr_jax._stacked._tree import add

# The errors of inner products are about 1 %. The number is odd: the rows of a matrix
# have an even length as a rule, and must not fall on the same buckets.
DEFAULT_SIZE = 16_381
# Blocks with signs in one word.
BITS = 32
# On CPUs, blocks that are added in one step of a loop, a divisor of BITS, and pieces
# into which their columns are cut, because XLA gives each core a number of rows.
BLOCKS, PIECES = 8, 16


def sketch(
  stacked: Any, size: int, dtype: Any, specs: Sequence[P] | None = None
) -> jax.Array:
  """Adds up each task's numbers with random signs in ``size`` buckets.

  Args:
    stacked: Pytree with leaves [K, *shape] and at least one leaf. An axis may have up
      to 2³² - 1 elements.
    size: The number of buckets, odd, from 3 to 2¹⁶ - 1.
    dtype: Dtype of the sums, float32 or float64. Narrower numbers are converted while
      they are read.
    specs: For each leaf how the parameter is sharded, without the axis of tasks. Needed
      where parameters are sharded over named axes of :func:`jax.shard_map`.

  Returns:
    The sketches, [K, size], replicated over the devices over which parameters are
    sharded. A task with numbers that are not finite has a sketch that is not finite.

  Raises:
    ValueError: for too long an axis, and without ``specs`` where they are needed, or
      with ``specs`` that do not fit the gradients.
  """
  leaves = jax.tree.leaves(stacked)
  for x in leaves:
    if max(x.shape[1:], default=0) >= 2**32:
      raise ValueError(
        "Sketches need parameters with fewer than 2**32 elements on an axis, got shape "
        f"{x.shape[1:]}. Reshape the parameter to more axes."
      )
  numbers = [number for number, x in enumerate(leaves) if x.size]
  if not numbers:
    return jnp.zeros((leaves[0].shape[0], size), dtype)

  def of_shards(reduce: Reduce, arrays) -> jax.Array:
    numbered = list(zip(numbers, reduce.shards(arrays), arrays, strict=True))
    add_up = functools.partial(_add_up, size=size, dtype=dtype, devices=reduce.devices)
    return reduce.sum(add_up, numbered, in_parts=False)

  some = None if specs is None else [specs[number] for number in numbers]
  return over_parameters(of_shards, [(leaves[n],) for n in numbers], specs=some)


def _add_up(numbered, size, dtype, devices):
  """Sketches what this device holds.

  Args:
    numbered: For each parameter its number, its shard, and a tuple of the array.
    size: As in :func:`sketch`.
    dtype: As in :func:`sketch`.
    devices: Over how many devices the compiler may have sharded an array.
  """
  whole, parts = [], []
  for number, shard, (x,) in numbered:
    if devices > 1 or not shard.is_contiguous(x.shape[1:]):
      parts.append(_by_places(x, number, shard, size, dtype))
    elif shard.starts is None:
      whole.append((number, x))
    else:
      parts.append(_by_columns(x, number, shard, size, dtype))
  if whole:
    numbers, arrays = zip(*whole, strict=True)
    parts.append(_whole(arrays, numbers, size, dtype))
  return add(parts)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2, 3))
def _whole(arrays, numbers, size, dtype):
  """Sketches parameters that this device holds as a whole."""
  return jax.lax.platform_dependent(
    arrays,
    cpu=lambda arrays: _by_blocks(arrays, numbers, size, dtype),
    default=lambda arrays: _all_by_columns(arrays, numbers, size, dtype),
  )


@_whole.defjvp
def _whole_jvp(numbers, size, dtype, primals, tangents):
  """Sketches the tangents, in a form that JAX can transpose."""
  return (
    _whole(*primals, numbers, size, dtype),
    _all_by_columns(*tangents, numbers, size, dtype),
  )


def _by_blocks(arrays, numbers, size, dtype):
  """Sketches whole parameters on CPUs, in place, several blocks at a time."""
  # Rows of equal length: those after the last bucket hold numbers of no use.
  width = -(-size // PIECES) * PIECES
  sums = jnp.zeros((arrays[0].shape[0], width), dtype)
  for x, number in zip(arrays, numbers, strict=True):
    flat = x.reshape(x.shape[0], -1)
    first = _offset(number, size)
    # Whole blocks, each of which is read together with what fills the width.
    start = size - first % size
    count = max(0, (flat.shape[1] - start - (width - size)) // size)
    if count:
      sums = _add_blocks(sums, flat, start, count, number, size)
    end = start + count * size
    # The first block is incomplete, and so is the last.
    pieces = [0, *range(min(start, flat.shape[1]), flat.shape[1], size)]
    pieces = [p for p in pieces if not start <= p < end] if count else pieces
    for p in pieces:
      stop = min(start if p == 0 else p + size, flat.shape[1])
      sums = _add_piece(sums, flat[:, p:stop], first + p, number, size)
  return sums[:, :size]


def _add_blocks(sums, flat, start, count, number, size):
  """Adds ``count`` whole blocks to the sums, from column ``start`` on.

  The first one is block BITS, whose sign is the first bit of a word.
  """
  num_tasks, width = sums.shape
  rows = (num_tasks, PIECES, width // PIECES)
  bucket = jax.lax.iota(jnp.uint32, width).reshape(1, *rows[1:])

  def some(sums, begin, number_of_blocks):
    block = jnp.asarray(begin + BITS, jnp.uint32)
    word = _word(number, bucket, block // np.uint32(BITS))
    word = word >> block % np.uint32(BITS)
    for i in range(number_of_blocks):
      where = start + (begin + i) * size
      x = jax.lax.dynamic_slice_in_dim(flat, where, width, 1)
      sums = sums + _flip(x.reshape(rows).astype(sums.dtype), word >> np.uint32(i))
    return sums

  sums = sums.reshape(rows)
  steps, rest = divmod(count, BLOCKS)
  if steps:
    sums = jax.lax.fori_loop(
      0, steps, lambda step, sums: some(sums, step * BLOCKS, BLOCKS), sums
    )
  if rest:
    sums = some(sums, steps * BLOCKS, rest)
  return sums.reshape(num_tasks, width)


def _add_piece(sums, x, place, number, size):
  """Adds a part of a single block to the sums.

  Args:
    sums: [K, size or more].
    x: [K, n].
    place: The place of the first number; that of the last one is in the same block.
    number: The parameter's number.
    size: As in :func:`sketch`.
  """
  block, first = divmod(place, size)
  bucket = jax.lax.iota(jnp.uint32, x.shape[1]) + np.uint32(first)
  word = _word(number, bucket, jnp.uint32(block // BITS)) >> np.uint32(block % BITS)
  signed = _flip(x.astype(sums.dtype), word[None])
  return sums.at[:, first : first + x.shape[1]].add(signed)


def _flip(x, word):
  """Changes the sign of numbers where the lowest bit of the words is 1.

  As the sign is a bit as well, that is faster than arithmetic.
  """
  bits = 8 * x.dtype.itemsize
  kind = jnp.dtype(f"uint{bits}")
  sign = word.astype(kind) << np.array(bits - 1, kind)
  x = jax.lax.bitcast_convert_type(x, kind) ^ sign
  return jax.lax.bitcast_convert_type(x, jnp.dtype(f"float{bits}"))


def _all_by_columns(arrays, numbers, size, dtype):
  """Sketches whole parameters in reductions, which accelerators do well."""
  return add(
    [
      _by_columns(x, number, Shard(x.shape[1:]), size, dtype)
      for x, number in zip(arrays, numbers, strict=True)
    ]
  )


def _by_columns(x, number, shard, size, dtype):
  """Sketches a shard of consecutive numbers, in a reduction over blocks."""
  flat = x.reshape(x.shape[0], -1).astype(dtype)
  block, bucket = _places(number, shard, (1,) * (x.ndim - 1), size)
  block, bucket = block.reshape(()), bucket.reshape(())
  whole = flat.shape[1] // size * size

  def signed(rows, first):
    index = jax.lax.broadcasted_iota(jnp.uint32, rows.shape[1:], 1) + bucket
    carry = index >= size
    blocks = jax.lax.broadcasted_iota(jnp.uint32, rows.shape[1:], 0) + block
    blocks += carry.astype(jnp.uint32) + np.uint32(first)
    index = index - jnp.where(carry, np.uint32(size), np.uint32(0))
    return _signed(rows, number, index, blocks)

  sums = jnp.zeros((x.shape[0], size), dtype)
  if whole:
    rows = flat[:, :whole].reshape(x.shape[0], -1, size)
    sums += jnp.sum(signed(rows, 0), axis=1)
  if whole < flat.shape[1]:
    rest = signed(flat[:, None, whole:], whole // size)[:, 0]
    sums += jnp.pad(rest, ((0, 0), (0, size - rest.shape[1])))
  return jnp.roll(sums, bucket.astype(jnp.int32), axis=1)


def _by_places(x, number, shard, size, dtype):
  """Sketches any shard, or an array that the compiler shards, by adding in buckets.

  No axes are merged, and the buckets are known from the position on each axis: so the
  compiler can sketch each shard where it is, and add up the sketches.
  """
  block, bucket = _places(number, shard, x.shape[1:], size)
  signed = _signed(x.astype(dtype), number, bucket, block)
  sums = jnp.zeros((x.shape[0], size), dtype)
  return sums.at[:, bucket].add(signed, mode="promise_in_bounds")


def _signed(x, number, bucket, block):
  """Multiplies numbers by their signs, in a form that JAX can differentiate."""
  word = _word(number, bucket, block // np.uint32(BITS))
  bit = word >> block % np.uint32(BITS) & np.uint32(1)
  return jnp.where(bit.astype(bool)[None], -x, x)


def _places(number, shard, shape, size):
  """Returns block and bucket, uint32, of the numbers in a shard's first ``shape``.

  Each axis contributes modulo ``size``, because positions in a large parameter exceed
  32 bits: the products below do not, as ``size`` is below 2¹⁶.
  """
  first = _offset(number, size)
  block = jnp.full(shape, first // size, jnp.uint32)
  bucket = jnp.full(shape, first % size, jnp.uint32)
  stride = math.prod(shard.shape)
  for axis, length in enumerate(shard.shape):
    stride //= length
    index = jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
    if shard.starts is not None:
      index += shard.starts[axis].astype(jnp.uint32)
    turns, rest = jnp.divmod(index, np.uint32(size))
    rest *= np.uint32(stride % size)
    block += index * np.uint32(stride // size % 2**32)
    block += turns * np.uint32(stride % size) + rest // np.uint32(size)
    bucket += rest % np.uint32(size)
    carry = bucket >= size
    block += carry.astype(jnp.uint32)
    bucket -= jnp.where(carry, np.uint32(size), np.uint32(0))
  return block, bucket


def _offset(number: int, size: int) -> int:
  """Returns the place of a parameter's first number, in block ``BITS - 1``.

  So the first whole block is one whose sign is the first bit of a word.
  """
  return (BITS - 1) * size + int(_key(number) % size)


def _key(number: int) -> np.uint32:
  """Hashes a parameter's number."""
  return hashed(hashed(np.array([number], np.uint32) + np.uint32(1)))[0]


def _word(number, bucket, group):
  """Returns a word of random bits for each bucket and group of ``BITS`` blocks."""
  return hashed(hashed(bucket) + hashed(hashed(group) + _key(number)))
