"""Sums of products over all parameters, in one pass over memory.

What costs time is reading K×D numbers; everything here reads each of them once or
twice and keeps no copy of that size. XLA would otherwise write differences and scaled
copies back to memory, and reduce on a single core of a CPU.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

# Rows are summed in blocks, and then the blocks' sums: the more exact, and the better
# for the cores' caches.
BLOCK = 1024
# Beyond so many tasks the compiler's fusion of reductions costs more than it saves.
MOST_REDUCED = 7
# One product after the other is the fastest reduction of a large parameter, but of up
# to so many tasks and parameters only: it has many outputs, each of which is compiled.
MOST_PAIRED, PAIRED_SIZE, PAIRED_LEAVES = 6, 2**16, 32
# Columns of the matrix products of many tasks: what stays in a core's cache; and on
# accelerators, where starting many small products would take the time.
WIDTH, ACCELERATOR_WIDTH = 2**11, 2**20
# So many small parameters make up for a copy by the time that compiling them takes.
SMALL, MANY = 4096, 64

Row = Callable[..., jax.Array]
EVERYONE = slice(None)


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
  leaves = _merge_small([arrays for arrays in leaves if arrays[0].size])
  if row and num_tasks > MOST_REDUCED:
    return jax.lax.platform_dependent(
      leaves,
      cpu=lambda leaves: _by_blocks(leaves, row, other, squared, WIDTH),
      default=lambda leaves: _by_blocks(leaves, row, other, squared, ACCELERATOR_WIDTH),
    )
  paired, shifted = _by_size(leaves) if row else ([], leaves)
  parts = []
  if paired:
    parts.append(_by_pairs(paired, row, other, squared))
  if shifted:
    parts.append(_by_shifts(shifted, row, other, squared))
  return _add(parts)


def sums_of_squares(leaves: Sequence[tuple[jax.Array, ...]], row: Row) -> jax.Array:
  """``Σ x_k²`` over all parameters, [K]; arguments as :func:`sums_of_products`."""
  leaves = _merge_small([arrays for arrays in leaves if arrays[0].size])
  tasks = range(leaves[0][0].shape[0])
  sums = []
  for arrays in _in_blocks(leaves):
    if len(tasks) > MOST_REDUCED:
      rows = jnp.sum(jnp.square(row(EVERYONE, *arrays)), axis=2)
    else:  # For one sum of all, XLA on CPUs would write the squares down.
      squares = [jnp.square(row(k, *[a[k] for a in arrays])) for k in tasks]
      rows = jnp.stack(_sum_over(squares, axis=1))
    sums.append(rows)
  return jnp.sum(jnp.concatenate(sums, axis=1), axis=1)


def _by_size(leaves):
  """The parameters that are worth a product after the other, and all others."""
  if leaves[0][0].shape[0] > MOST_PAIRED:
    return [], leaves
  ordered = sorted(leaves, key=lambda arrays: -arrays[0][0].size)
  large = [a for a in ordered[:PAIRED_LEAVES] if a[0][0].size >= PAIRED_SIZE]
  return large, ordered[len(large) :]


def _by_pairs(leaves, row, other, squared):
  """Each two tasks' product, all in a single reduction of many outputs."""
  tasks = range(leaves[0][0].shape[0])
  pairs = [(i, j) for i in tasks for j in tasks if other or j >= i]
  sums_of_rows = []
  for arrays in _in_blocks(leaves):
    blocks = [[a[k] for a in arrays] for k in tasks]

    def of_tasks(made, blocks=blocks):
      return [made(k, *blocks[k]) for k in tasks] if made else []

    x, z = of_tasks(row), of_tasks(squared)
    y = of_tasks(other) or x
    terms = [x[i] * y[j] for i, j in pairs] + [z_k * z_k for z_k in z]
    sums_of_rows.append(_sum_over(terms, axis=1))
  sums = [jnp.sum(jnp.concatenate(rows)) for rows in zip(*sums_of_rows, strict=True)]
  place = {pair: n for n, pair in enumerate(pairs)}
  where = [[place.get((i, j), place.get((j, i), 0)) for j in tasks] for i in tasks]
  gram = jnp.stack([jnp.stack([sums[n] for n in row]) for row in where])
  squares = sums[len(pairs) :]
  return gram, jnp.stack(squares) if squares else None


def _by_shifts(leaves, row, other, squared):
  """All tasks times all, moved on by one task, by two, ...: few outputs to compile."""
  num_tasks = leaves[0][0].shape[0]
  shifts = range(num_tasks if other else num_tasks // 2 + 1) if row else []
  sums_of_rows = []
  for arrays in _in_blocks(leaves):

    def of_all(made, arrays=arrays):
      # The tasks next to the rows, so that one block of all of them fits the cache.
      return jnp.swapaxes(made(EVERYONE, *arrays), 0, 1)

    terms = []
    if row:
      x = of_all(row)
      y = of_all(other) if other else x
      terms += [x * jnp.roll(y, -shift, axis=1) for shift in shifts]
    if squared:
      terms.append(jnp.square(of_all(squared)))
    sums_of_rows.append(_sum_over(terms, axis=2))
  sums = [
    jnp.sum(jnp.concatenate(rows), axis=0) for rows in zip(*sums_of_rows, strict=True)
  ]
  squares = sums.pop() if squared else None
  if not row:
    return None, squares
  i, j = jnp.indices((num_tasks, num_tasks))
  forth, back = (j - i) % num_tasks, (i - j) % num_tasks
  known = forth < len(shifts)
  where = jnp.where(known, forth, back), jnp.where(known, i, j)
  return jnp.stack(sums)[where], squares


def _sum_over(terms, axis):
  """The sums over one axis of several arrays, in one pass."""
  zeros = tuple(jnp.zeros((), term.dtype) for term in terms)

  def add(a, b):
    return tuple(x + y for x, y in zip(a, b, strict=True))

  return jax.lax.reduce(tuple(terms), zeros, add, (axis,))


def _by_blocks(leaves, row, other, squared, usual_width):
  """Small matrix products, of blocks that stay in a core's cache."""
  num_tasks = leaves[0][0].shape[0]

  def block(parts):
    x = row(EVERYONE, *parts)
    y = other(EVERYONE, *parts) if other else x
    products = jnp.matmul(x, y.T, precision="highest")
    if not squared:
      return products, None
    return products, jnp.sum(jnp.square(squared(EVERYONE, *parts)), axis=1)

  sums = []
  for arrays in leaves:
    flat = [a.reshape(num_tasks, -1) for a in arrays]
    size = flat[0].shape[1]
    # What a width leaves over takes memory of its own.
    widths = range(3 * usual_width // 2, usual_width // 2, -128)
    width = next((w for w in widths if size % w == 0), usual_width)
    count, rest = divmod(size, width)

    def numbered(index, flat=flat, width=width):
      start = index * width
      return block([jax.lax.dynamic_slice_in_dim(a, start, width, 1) for a in flat])

    if count:
      narrow = any(a.dtype.itemsize < 4 for a in arrays)
      term = in_place(numbered, count) if narrow else numbered
      sums.append(_sum_exactly(count, term))
    if rest:
      sums.append(block([a[:, count * width :] for a in flat]))
  return _add(sums)


def in_place(
  term: Callable[[jax.Array], Any], count: int
) -> Callable[[jax.Array], Any]:
  """``term`` of an index below ``count``, for loops over arrays of narrow dtypes.

  In a branch that is always taken: out of a bare loop XLA moves the conversion to a
  wider dtype, and so makes a wide copy of the whole array.
  """

  def branch(index):
    shapes = jax.eval_shape(term, index)
    zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return jax.lax.cond(index < count, term, lambda _: zero, index)

  return branch


def _sum_exactly(count, term):
  """Kahan's sum of terms: what rounding takes from the total is added to the next."""
  shapes = jax.eval_shape(term, jnp.zeros((), jnp.int32))
  zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

  def step(index, carry):
    total, lost = carry
    new = jax.tree.map(jnp.subtract, term(index), lost)
    after = jax.tree.map(jnp.add, total, new)
    lost = jax.tree.map(lambda a, b, x: (a - b) - x, after, total, new)
    return after, lost

  return jax.lax.fori_loop(0, count, step, (zero, zero))[0]


def _in_blocks(leaves) -> Iterator[list[jax.Array]]:
  """The arrays as [K, R, B]; what no B divides comes as one short block more."""
  for arrays in leaves:
    num_tasks, size = arrays[0].shape[0], arrays[0][0].size
    largest = min(BLOCK, size)
    # Not the parameter's own shape: XLA would share its tasks' slices with the
    # combination, and so keep them, if they are of a narrow dtype.
    blocks = (b for b in range(largest, 0, -1) if size % b == 0)
    block = next(b for b in blocks if (size // b, b) != arrays[0].shape[1:] or b == 1)
    flat = [a.reshape(num_tasks, -1) for a in arrays]
    if 16 * block >= largest:
      yield [a.reshape(num_tasks, -1, block) for a in flat]
    else:
      whole = size // BLOCK * BLOCK
      if whole:
        yield [a[:, :whole].reshape(num_tasks, -1, BLOCK) for a in flat]
      yield [a[:, None, whole:] for a in flat]


def _merge_small(leaves):
  """Many small parameters become one: the compiler's time is by their number."""
  small = [arrays for arrays in leaves if arrays[0][0].size <= SMALL]
  if len(small) <= MANY:
    return leaves
  large = [arrays for arrays in leaves if arrays[0][0].size > SMALL]
  flat = [[a.reshape(a.shape[0], -1) for a in arrays] for arrays in small]
  return [*large, tuple(_concatenate(parts) for parts in zip(*flat, strict=True))]


def _concatenate(parts):
  dtypes = {part.dtype for part in parts}
  dtype = dtypes.pop() if len(dtypes) == 1 else _widest(dtypes)
  return jnp.concatenate([part.astype(dtype) for part in parts], axis=1)


def _widest(dtypes):
  return jnp.float64 if jnp.dtype("float64") in dtypes else jnp.float32


def _add(parts):
  """The sum of pytrees of the same structure."""
  first, *rest = parts
  for part in rest:
    first = jax.tree.map(jnp.add, first, part)
  return first
