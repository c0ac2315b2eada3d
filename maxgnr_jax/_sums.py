"""Sums of products over all parameters, in one pass over memory.

What costs time is reading K×D numbers; everything here reads each of them once and
keeps no copy of that size. XLA would otherwise write differences and scaled copies
back to memory, and reduce on a single core of a CPU.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

# Rows are summed in blocks, and then the blocks' sums: the more exact, and the better
# for the cores' caches.
BLOCK = 4096
# A fusion of more outputs compiles for too long, or is none.
MOST_TASKS_AT_ONCE = 6

Row = Callable[..., jax.Array]


def sums_of_products(
  leaves: Sequence[tuple[jax.Array, ...]],
  row: Row | None,
  other: Row | None = None,
  squared: Row | None = None,
) -> tuple[Any, Any]:
  """``Σ x_i y_j`` over all parameters, of tasks i and j, and ``Σ z_k²`` beside them.

  Args:
    leaves: Of each parameter the stacked arrays, [K, *shape], that rows are made of.
    row: Elementwise, from a task, or the slice of all, and the parts of the arrays that
      belong to it to x.
    other: The same for y, if it is not x.
    squared: The same for z.

  Returns:
    [K, K] and [K]; None for what was not asked for.
  """
  num_tasks = leaves[0][0].shape[0]
  few = num_tasks <= MOST_TASKS_AT_ONCE
  return (_at_once if few else _block_by_block)(
    _merge_small(leaves), row, other, squared
  )


def sums_of_squares(leaves: Sequence[tuple[jax.Array, ...]], row: Row) -> jax.Array:
  """``Σ x_k²`` over all parameters, [K]; arguments as :func:`sums_of_products`."""
  return sums_of_products(leaves, None, squared=row)[1]


def _at_once(leaves, row, other, squared):
  """All products of a parameter in a single reduction with many outputs."""
  tasks = range(leaves[0][0].shape[0])
  pairs = [(i, j) for i in tasks for j in tasks if row and (other or j >= i)]
  sums_of_rows = []
  for arrays in _in_blocks(leaves):
    blocks = [[a[k] for a in arrays] for k in tasks]

    def of_tasks(made, blocks=blocks):
      return [made(k, *blocks[k]) for k in tasks] if made else []

    x, z = of_tasks(row), of_tasks(squared)
    y = of_tasks(other) or x
    terms = [x[i] * y[j] for i, j in pairs] + [z_k * z_k for z_k in z]
    sums_of_rows.append(_sum_rows(terms))
  sums = [jnp.sum(jnp.concatenate(rows)) for rows in zip(*sums_of_rows, strict=True)]
  found = dict(zip(pairs, sums, strict=False))
  rest = sums[len(pairs) :]
  products = [
    jnp.stack([found[i, j] if (i, j) in found else found[j, i] for j in tasks])
    for i in tasks
    if pairs
  ]
  return (
    jnp.stack(products) if products else None,
    jnp.stack(rest) if rest else None,
  )


def _sum_rows(terms):
  """The sums over the last axis of arrays [R, B], in one pass."""
  zeros = tuple(jnp.zeros((), term.dtype) for term in terms)

  def add(a, b):
    return tuple(x + y for x, y in zip(a, b, strict=True))

  return jax.lax.reduce(tuple(terms), zeros, add, (1,))


def _block_by_block(leaves, row, other, squared):
  """Small matrix products, of blocks that stay in a core's cache."""
  num_tasks = leaves[0][0].shape[0]
  width = BLOCK // 2 if num_tasks <= 16 else BLOCK
  everyone = slice(None)

  def block(arrays):
    products, squares = None, None
    if row:
      x = row(everyone, *arrays)
      y = other(everyone, *arrays) if other else x
      products = jnp.matmul(x, y.T, precision="highest")
    if squared:
      squares = jnp.sum(jnp.square(squared(everyone, *arrays)), axis=1)
    return products, squares

  total = None
  for arrays in leaves:
    flat = [a.reshape(num_tasks, -1) for a in arrays]
    size = flat[0].shape[1]
    whole = size // width

    def part(index, flat=flat):
      start = index * width
      return [jax.lax.dynamic_slice_in_dim(a, start, width, 1) for a in flat]

    def step(index, sums, part=part):
      return jax.tree.map(jnp.add, sums, block(part(index)))

    sums = []
    if whole:
      sums.append(jax.lax.fori_loop(1, whole, step, block(part(0))))
    if size % width:
      sums.append(block([a[:, whole * width :] for a in flat]))
    for term in sums:
      total = term if total is None else jax.tree.map(jnp.add, total, term)
  return total


def _in_blocks(leaves):
  """The arrays as [K, R, B]; what no B divides comes as one short block more."""
  for arrays in leaves:
    num_tasks, size = arrays[0].shape[0], arrays[0][0].size
    block = next(b for b in range(min(BLOCK, size), 0, -1) if size % b == 0)
    flat = [a.reshape(num_tasks, -1) for a in arrays]
    if 16 * block >= min(BLOCK, size):
      yield [a.reshape(num_tasks, -1, block) for a in flat]
    else:
      whole = size // BLOCK * BLOCK
      if whole:
        yield [a[:, :whole].reshape(num_tasks, -1, BLOCK) for a in flat]
      yield [a[:, None, whole:] for a in flat]


def _merge_small(leaves):
  """Small parameters become one: the compiler's time is by their number."""
  small: list[Any] = []
  large: list[Any] = []
  for arrays in leaves:
    size = arrays[0][0].size
    if size:
      (small if size <= BLOCK else large).append(arrays)
  if len(small) > 1:
    flat = [[a.reshape(a.shape[0], -1) for a in arrays] for arrays in small]
    small = [tuple(_concatenate(parts) for parts in zip(*flat, strict=True))]
  return large + small


def _concatenate(parts):
  dtypes = {part.dtype for part in parts}
  dtype = dtypes.pop() if len(dtypes) == 1 else _widest(dtypes)
  return jnp.concatenate([part.astype(dtype) for part in parts], axis=1)


def _widest(dtypes):
  return jnp.float64 if jnp.dtype("float64") in dtypes else jnp.float32
