"""Sketches on CPUs: loops that add several blocks of columns in each pass."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from maxgnr_jax._stacked._rounding import hashed
from maxgnr_jax._stacked._sharding import varying_like
from maxgnr_jax._stacked._sums import in_place
from maxgnr_jax._stacked._tree import add

# Blocks with signs in one word.
BITS = 32
# On CPUs: blocks that are added in one pass over the sums, a divisor of BITS.
BLOCKS = 4
# On CPUs the columns of a block are cut into this many rows. XLA gives each core some
# rows; where it has to cut rows, its code is several times slower.
ROWS = 16


def word(bucket, group):
  """Returns BITS random bits for each bucket and group of blocks."""
  return hashed(hashed(bucket) + hashed(hashed(group)))


def by_blocks(whole: Sequence[tuple[Any, jax.Array]], size: int, dtype: Any):
  """Sketches whole parameters on CPUs: adds several blocks in each pass.

  Args:
    whole: Segments, and their arrays [K, length].
    size: The number of buckets.
    dtype: Dtype of the sums.
  """
  # Rows of equal length: blocks are read with some numbers more, which fall on columns
  # of no use.
  rows = ROWS if size > ROWS**2 else 1
  width = -(-size // rows) * rows
  spare = width - size
  arrays = [x for _, x in whole]
  num_tasks = arrays[0].shape[0]
  column = jax.lax.iota(jnp.uint32, width).reshape(1, rows, -1)
  sums = jnp.zeros((num_tasks, rows, width // rows), dtype)
  sums = varying_like(sums, arrays)
  after: list[_Block] = []
  before: list[_Block] = []
  for segment, x in whole:
    if segment.length < width:
      x = jnp.pad(x, ((0, 0), (width - segment.length, 0)))
    end = x.shape[1]
    steps = segment.last // BLOCKS if segment.last >= 2 * BLOCKS else 0
    # The very last block of a loop must not be read beyond the end.
    steps -= steps * BLOCKS * size + spare > end
    if steps:
      blocks = [
        _Block(x, i * size, BLOCKS * size, segment.first + i, BLOCKS, 0)
        for i in range(BLOCKS)
      ]
      sums = _add_blocks(sums, blocks, column, steps)
    for block in range(steps * BLOCKS, segment.last):
      forward = block * size + width <= end
      start = block * size - (0 if forward else spare)
      some = after if forward else before
      some.append(_Block(x, start, 1, segment.first + block, BITS, 0))
    last = segment.first + segment.last
    before.append(_Block(x, end - width, 1, last, BITS, segment.gap))
  for n in range(0, len(after), BLOCKS):
    sums = _add_blocks(sums, after[n : n + BLOCKS], column)
  if spare:  # from here on the columns of no use are the first
    flat = sums.reshape(num_tasks, width)[:, :size]
    sums = jnp.pad(flat, ((0, 0), (spare, 0))).reshape(sums.shape)
  column = column - np.uint32(spare)
  for n in range(0, len(before), BLOCKS):
    sums = _add_blocks(sums, before[n : n + BLOCKS], column)
  return sums.reshape(num_tasks, width)[:, spare:]


class _Block(NamedTuple):
  """A block of an array, and how it moves from one step of a loop to the next.

  Attributes:
    x: [K, length].
    start: The block's first column in the first step.
    stride: How far it moves in each step.
    number: The block's number in the first step.
    more: How much the number grows in each step.
    gap: The number of buckets that stay empty, the first ones.
  """

  x: jax.Array
  start: int
  stride: int
  number: int
  more: int
  gap: int


def _add_blocks(sums, blocks, column, steps=1):
  """Adds some blocks to the sums in each step of a loop, in one pass over the sums.

  Args:
    sums: [K, R, C].
    blocks: A few blocks.
    column: The bucket of each sum, [1, R, C].
    steps: The number of steps.
  """
  width = sums[0].size

  def term(step):
    words: dict[tuple[int, int], jax.Array] = {}
    terms = []
    for block in blocks:
      kind = block.number // BITS, block.more
      if kind not in words:  # the same word in every step, unless steps are aligned
        number = (step * block.more + block.number).astype(jnp.uint32)
        words[kind] = word(column, number // np.uint32(BITS))
      bit = (step * block.more + block.number).astype(jnp.uint32) % np.uint32(BITS)
      start = step * block.stride + block.start
      x = jax.lax.dynamic_slice_in_dim(block.x, start, width, 1).reshape(sums.shape)
      x = _flip(x.astype(sums.dtype), words[kind] >> bit)
      if block.gap:
        # Compared as integers: the columns before the first bucket are negative.
        x = jnp.where(column.astype(jnp.int32) >= block.gap, x, jnp.zeros_like(x))
      terms.append(x)
    return add(terms)

  if any(block.x.dtype != sums.dtype for block in blocks):
    term = in_place(term, steps)
  if steps > 1:
    return jax.lax.fori_loop(0, steps, lambda step, sums: sums + term(step), sums)
  return _once(lambda step, sums: sums + term(step), sums)


def _once(fun, sums):
  """Returns ``fun(0, sums)``, computed apart from what is before and after.

  XLA would fuse one pass with the next ones, which is several times slower, and on CPUs
  it ignores optimisation barriers. So this is a loop of a single step. XLA cannot know
  that, because by how much the counter grows, one or two, depends on a sum's sign.
  """

  def body(carry):
    sums, step = carry
    sums = fun(step, sums)
    negative = jnp.signbit(sums.reshape(-1)[0]).astype(jnp.int32)
    return sums, step + 1 + negative

  zero = varying_like(jnp.zeros((), jnp.int32), [sums])
  return jax.lax.while_loop(lambda carry: carry[1] == 0, body, (sums, zero))[0]


def _flip(x, word):
  """Changes the sign of numbers where the lowest bit of the words is 1.

  As the sign is a bit as well, that is faster than arithmetic.
  """
  bits = 8 * x.dtype.itemsize
  kind = jnp.dtype(f"uint{bits}")
  sign = word.astype(kind) << np.array(bits - 1, kind)
  x = jax.lax.bitcast_convert_type(x, kind) ^ sign
  return jax.lax.bitcast_convert_type(x, jnp.dtype(f"float{bits}"))
