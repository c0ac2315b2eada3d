"""The count sketch of stacked gradients: a few thousand numbers that keep geometry.

A sketch adds up a task's D numbers, with random signs, in far fewer buckets. It is
linear, and inner products of two tasks' sketches are those of their gradients up to an
error of about ``sqrt(2 / size)`` of the product of their norms.

Every number has a *bucket* and a *block*. Number p of a large parameter, counted in
row-major order over all devices, has bucket ``p % size`` and block
``first + p // size``, where ``first`` differs between parameters. The last block is
incomplete; its numbers are moved to the last buckets. Small parameters are laid end to
end first. A hash of bucket and ``block // 32`` gives 32 bits, the signs of 32 blocks.
All that depends on the parameters' shapes only, and on neither tasks nor devices.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from maxgnr_jax._stacked._sharding import Reduce, Shard, over_parameters
from maxgnr_jax._stacked._sketch_blocks import BITS, BLOCKS, ROWS, by_blocks, word
from maxgnr_jax._stacked._tree import add, compute_dtype

# The errors of inner products are about 1 %. The number is odd: the rows of a matrix
# have an even length as a rule, and must not fall on the same buckets.
DEFAULT_SIZE = 16_381
# Small parameters are laid end to end up to about this many blocks.
MERGED = 16


def sketch(
  stacked: Any, size: int, dtype: Any, specs: Sequence[P] | None = None
) -> jax.Array:
  """Adds up each task's numbers with random signs in ``size`` buckets.

  Args:
    stacked: Pytree with leaves [K, *shape] and at least one leaf. An axis may have up
      to 2³² - 1 elements, and all parameters together up to 2³² ``size`` elements.
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
  present = [number for number, x in enumerate(leaves) if x.size]
  for x in leaves:
    if max(x.shape[1:], default=0) >= 2**32:
      raise ValueError(
        "Sketches need parameters with fewer than 2**32 elements on an axis, got shape "
        f"{x.shape[1:]}. Reshape the parameter to more axes."
      )
  if not present:
    return jnp.zeros((leaves[0].shape[0], size), dtype)

  def of_shards(reduce: Reduce, arrays) -> jax.Array:
    shards = reduce.shards(arrays)
    segments = _segments([math.prod(shard.shape) for shard in shards], size)
    parts = [
      _Part(x, shard, *where)
      for (x,), shard, where in zip(arrays, shards, segments, strict=True)
    ]
    add_up = functools.partial(_add_up, size=size, dtype=dtype, devices=reduce.devices)
    return reduce.sum(add_up, parts, in_parts=False)

  some = None if specs is None else [specs[number] for number in present]
  return over_parameters(of_shards, [(leaves[n],) for n in present], specs=some)


class _Segment(NamedTuple):
  """One large parameter, or several small ones that are laid end to end.

  Attributes:
    first: The first block.
    length: The number of elements of each task.
    last: The number of blocks before the last one.
    gap: The number of buckets of the last block that stay empty, the first ones.
  """

  first: int
  length: int
  last: int
  gap: int


class _Part(NamedTuple):
  """What a device holds of a parameter, and where it is in a segment."""

  x: jax.Array
  shard: Shard
  segment: _Segment
  offset: int


def _segments(lengths: Sequence[int], size: int) -> list[tuple[_Segment, int]]:
  """Returns for each parameter its segment, and where it begins there.

  Args:
    lengths: The parameters' numbers of elements, positive.
    size: As in :func:`sketch`.
  """
  groups: list[list[int]] = []
  merged: list[int] = []
  total = 0
  for number, length in enumerate(lengths):
    if length >= size + ROWS:
      groups.append([number])
    elif merged and total + length <= MERGED * size:
      merged.append(number)
      total += length
    else:
      merged, total = [number], length
      groups.append(merged)
  found: dict[int, tuple[_Segment, int]] = {}
  first = 0
  for group in groups:
    length = sum(lengths[number] for number in group)
    last = (length - 1) // size
    if last >= 2 * BLOCKS:  # a loop starts at the first of BLOCKS signs
      first = -(-first // BLOCKS) * BLOCKS
    segment = _Segment(first, length, last, (last + 1) * size - length)
    first += last + 1
    offset = 0
    for number in group:
      found[number] = segment, offset
      offset += lengths[number]
  return [found[number] for number in range(len(lengths))]


def _add_up(parts, size, dtype, devices):
  """Sketches what this device holds.

  Args:
    parts: As many :class:`_Part` as parameters.
    size: As in :func:`sketch`.
    dtype: As in :func:`sketch`.
    devices: Over how many devices the compiler may have sharded an array.
  """
  # Where a column of a whole parameter does not fit 32 bits, that of an axis does.
  is_whole = [
    devices == 1 and part.shard.starts is None and part.segment.length < 2**31
    for part in parts
  ]
  sums = [
    _by_places(part, size, dtype)
    for part, whole in zip(parts, is_whole, strict=True)
    if not whole
  ]
  whole = [part for part, whole in zip(parts, is_whole, strict=True) if whole]
  if whole:
    arrays, _, segments, offsets = zip(*whole, strict=True)
    sums.append(_whole(arrays, tuple(zip(segments, offsets, strict=True)), size, dtype))
  return add(sums)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2, 3))
def _whole(arrays, segments, size, dtype):
  """Sketches parameters that this device holds as a whole.

  Args:
    arrays: [K, *shape].
    segments: For each array its segment, and where it begins there.
    size: As in :func:`sketch`.
    dtype: As in :func:`sketch`.
  """
  return jax.lax.platform_dependent(
    arrays,
    cpu=lambda arrays: by_blocks(_end_to_end(arrays, segments), size, dtype),
    default=lambda arrays: _by_columns(arrays, segments, size, dtype),
  )


@_whole.defjvp
def _whole_jvp(segments, size, dtype, primals, tangents):
  """Sketches the tangents, in a form that JAX can transpose."""
  (arrays,), (changes,) = primals, tangents
  return (
    _whole(arrays, segments, size, dtype),
    _by_columns(changes, segments, size, dtype),
  )


def _end_to_end(arrays, segments):
  """Lays arrays end to end: a list of segments and arrays [K, length]."""
  flat = [x.reshape(x.shape[0], -1) for x in arrays]
  groups: dict[_Segment, list] = {}
  for x, (segment, offset) in zip(flat, segments, strict=True):
    pieces = groups.setdefault(segment, [])
    missing = offset - sum(piece.shape[1] for piece in pieces)
    if missing:  # a device may hold only some of the parameters as a whole
      pieces.append(jnp.zeros((x.shape[0], missing), x.dtype))
    pieces.append(x)
  result = []
  for segment, pieces in groups.items():
    missing = segment.length - sum(piece.shape[1] for piece in pieces)
    if missing:
      pieces.append(jnp.zeros((pieces[0].shape[0], missing), pieces[0].dtype))
    if len(pieces) > 1:
      dtypes = {piece.dtype for piece in pieces}
      dtype = dtypes.pop() if len(dtypes) == 1 else compute_dtype(pieces)
      pieces = [jnp.concatenate([piece.astype(dtype) for piece in pieces], axis=1)]
    result.append((segment, pieces[0]))
  return result


def _by_columns(arrays, segments, size, dtype):
  """Sketches whole parameters in reductions, which accelerators do well."""
  sums = []
  for segment, x in _end_to_end(arrays, segments):
    block = jnp.arange(segment.last + 1, dtype=jnp.uint32) + np.uint32(segment.first)
    bucket = jnp.arange(size, dtype=jnp.uint32)
    x = x.astype(dtype)
    num_tasks, cut = x.shape[0], segment.last * size
    last = jnp.pad(x[:, cut:], ((0, 0), (segment.gap, 0)))
    sums.append(_signed(last, bucket, block[-1]))
    if cut:
      rows = x[:, :cut].reshape(num_tasks, -1, size)
      sums.append(jnp.sum(_signed(rows, bucket[None], block[:-1, None]), axis=1))
  return add(sums)


def _by_places(part, size, dtype):
  """Sketches any shard, or an array that the compiler shards, by adding in buckets.

  No axes are merged, and the buckets are known from the position on each axis: so the
  compiler can sketch each shard where it is, and add up the sketches.
  """
  x, shard, segment, offset = part
  block, bucket = _places(shard, x.shape[1:], offset, size)
  is_last = block == np.uint32(segment.last)
  bucket += jnp.where(is_last, np.uint32(segment.gap), np.uint32(0))
  signed = _signed(x.astype(dtype), bucket, block + np.uint32(segment.first))
  sums = jnp.zeros((x.shape[0], size), dtype)
  return sums.at[:, bucket].add(signed, mode="promise_in_bounds")


def _places(shard, local, offset, size):
  """Returns ``(offset + p) // size`` and the remainder, for a shard's positions p.

  Each axis contributes modulo ``size``, because positions in a large parameter exceed
  32 bits: the products below do not, as ``size`` is below 2¹⁶.
  """
  block = jnp.full(local, offset // size, jnp.uint32)
  bucket = jnp.full(local, offset % size, jnp.uint32)
  stride = math.prod(shard.shape)
  for axis, length in enumerate(shard.shape):
    stride //= length
    index = jax.lax.broadcasted_iota(jnp.uint32, local, axis)
    if shard.starts is not None:
      index += shard.starts[axis]
    turns, rest = jnp.divmod(index, np.uint32(size))
    rest *= np.uint32(stride % size)
    block += index * np.uint32(stride // size % 2**32)
    block += turns * np.uint32(stride % size) + rest // np.uint32(size)
    bucket += rest % np.uint32(size)
    carry = bucket >= size
    block += carry.astype(jnp.uint32)
    bucket -= jnp.where(carry, np.uint32(size), np.uint32(0))
  return block, bucket


def _signed(x, bucket, block):
  """Multiplies numbers by their signs, in a form that JAX can differentiate."""
  bits = word(bucket, block // np.uint32(BITS))
  bit = bits >> block % np.uint32(BITS) & np.uint32(1)
  return jnp.where(bit.astype(bool)[None], -x, x)
