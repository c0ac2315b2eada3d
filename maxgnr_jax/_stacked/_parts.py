"""Sums over parameters where only the compiler knows how they are sharded.

Under a mesh of automatic axes the compiler partitions what is written for whole arrays.
It gathers an array on every device if a sharded axis is merged with another axis, is
sliced, or is summed for several results at once. Therefore each axis of n numbers is
split into p parts of n/p numbers, where p is a multiple of every number of shards that
the axis can have. A shard then is a number of whole parts. What is done within parts
needs no communication, and parts are added in a way for which the compiler chooses
all-reduces of the sums.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from maxgnr_jax._stacked._sums import MOST_REDUCED, in_place, sum_exactly
from maxgnr_jax._stacked._tree import add

# Arrays of many tasks are read in at most this many steps if they have at least this
# many elements: for matrix products a whole array would be copied.
STEPS, STEPPED_SIZE = 64, 2**16


def sum_in_parts(
  sums: Callable[..., Any], leaves: Sequence[tuple[jax.Array, ...]], devices: int
) -> Any:
  """Returns ``sums(leaves)``, computed for each part of each parameter by itself.

  Args:
    sums: From some of the leaves to a pytree of arrays that are to be added.
    leaves: For each parameter a tuple of stacked arrays, [K, *shape].
    devices: The number of devices; no axis has more shards.
  """
  results = []
  for arrays in leaves:
    counts = [_number_of_parts(n, devices) for n in arrays[0].shape[1:]]
    split = tuple(_split(x, counts) for x in arrays)
    axes = tuple(range(len(counts)))

    def each_part(split, axes=axes):
      first = [jnp.moveaxis(x, [2 * i + 1 for i in axes], axes) for x in split]
      over_parts = sums
      for _ in axes:
        over_parts = jax.vmap(over_parts)
      return over_parts([tuple(first)])

    many = arrays[0].shape[0] > MOST_REDUCED
    large = arrays[0][0].size >= STEPPED_SIZE
    parts = _in_steps(each_part, split) if many and large else each_part(split)
    # Results of different parameters are added as sums over all parts: their parts can
    # lie on different devices.
    results.append(jax.tree.map(lambda x, axes=axes: jnp.sum(x, axis=axes), parts))
  return add(results)


def sample_of_parts(x: jax.Array, size: int, devices: int) -> jax.Array:
  """Returns a sample of each task's numbers, from every part.

  Args:
    x: A stacked array, [K, *shape].
    size: The sample has at least this many numbers if the array has, and at least one
      of every part.
    devices: As in :func:`sum_in_parts`.

  Returns:
    The sample, [K, *any shape].
  """
  counts = [_number_of_parts(n, devices) for n in x.shape[1:]]
  taken, slices = math.prod(counts), [slice(None)]
  for n, count in zip(x.shape[1:], counts, strict=True):
    wanted = min(n // count, -(-size // taken))
    slices += [slice(None), slice(None, None, n // count // wanted)]
    taken *= wanted
  return _split(x, counts)[tuple(slices)]


@functools.cache
def _number_of_parts(n: int, devices: int) -> int:
  """Returns a divisor of n that every possible number of shards divides."""
  return math.lcm(*(m for m in range(1, min(n, devices) + 1) if n % m == 0))


def _split(x, counts):
  """Reshapes an array [K, n, ...] to [K, parts, n / parts, ...]."""
  shape = [x.shape[0]]
  for n, count in zip(x.shape[1:], counts, strict=True):
    shape += [count, n // count]
  return x.reshape(shape)


def _in_steps(each_part, split):
  """Sums over a slice of every part in each step of a loop.

  Args:
    each_part: From split arrays to a pytree of arrays that are to be added.
    split: Arrays [K, parts, rest, parts, rest, ...].
  """

  def steps(axis):  # the largest number that divides the axis
    n = split[0].shape[axis]
    return next(count for count in range(STEPS, 0, -1) if n % count == 0)

  axis = max(range(2, split[0].ndim, 2), key=steps)
  count = steps(axis)
  width = split[0].shape[axis] // count

  def step(index):
    return each_part(
      [jax.lax.dynamic_slice_in_dim(x, index * width, width, axis) for x in split]
    )

  narrow = any(x.dtype.itemsize < 4 for x in split)
  return sum_exactly(count, in_place(step, count) if narrow else step)
