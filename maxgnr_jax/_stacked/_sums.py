"""Sums of products over all parameters, in one pass over memory.

Reading K×D numbers is what costs time. The functions in this file read each number once
or twice and keep no copy of that size. If they were written in the obvious way, XLA
would store differences and scaled copies, and would reduce on a single core of a CPU.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from maxgnr_jax._stacked._tree import add, compute_dtype

# Numbers are summed in blocks of this length, and then the blocks' sums are added. That
# is more exact than one long sum, and a block fits a core's cache.
BLOCK = 1024
# With more tasks than this, fused reductions cost more than they save; matrix products
# take their place.
MOST_REDUCED = 7
# A separate product for each pair of tasks is the fastest reduction of a large
# parameter. Each product has to be compiled, so it is used up to this many tasks, from
# this size of a parameter, and for this many parameters.
MOST_PAIRED, PAIRED_SIZE, PAIRED_LEAVES = 6, 2**16, 32
# Columns of each matrix product: on CPUs what fits a core's cache. Accelerators take
# more, because starting many small products would take most of their time.
WIDTH, ACCELERATOR_WIDTH = 2**11, 2**20
# If more than MANY parameters are SMALL (at most this many elements), they are
# concatenated: the copy takes less time than compiling sums for each of them.
SMALL, MANY = 4096, 64
# Large parameters of a narrow dtype are widened in chunks of this many columns, at most
# half of PAIRED_SIZE. On CPUs XLA would store wide copies for more than three tasks.
CHUNK = 2**15

Row = Callable[..., jax.Array]
ALL_TASKS = slice(None)


def sums_of_products(
  leaves: Sequence[tuple[jax.Array, ...]],
  row: Row | None,
  other: Row | None = None,
  squared: Row | None = None,
) -> tuple[Any, Any]:
  """Sums ``x_i y_j`` over all parameters, for tasks i and j, and ``z_k²`` for task k.

  The numbers x, y and z are computed from the stacked arrays while these are read. They
  are never stored.

  Args:
    leaves: For each parameter a tuple of stacked arrays, [K, *shape], none of size 0.
    row: Makes x: an elementwise function ``row(k, *arrays)``. Either k is a task and
      the arrays hold numbers of that task, or k is the slice of all tasks and the
      arrays hold numbers of all, with the tasks on axis 0. None for no products.
    other: Makes y in the same way. Default: y is x.
    squared: Makes z in the same way. Default: no squares.

  Returns:
    ``Σ x_i y_j`` [K, K], None without ``row``; and ``Σ z_k²`` [K], None without
    ``squared``.
  """
  num_tasks = leaves[0][0].shape[0]
  leaves = _merge_small(leaves)
  if row and num_tasks > MOST_REDUCED:
    return jax.lax.platform_dependent(
      leaves,
      cpu=lambda leaves: _by_blocks(leaves, row, other, squared, WIDTH),
      default=lambda leaves: _by_blocks(leaves, row, other, squared, ACCELERATOR_WIDTH),
    )
  paired, shifted = _by_size(leaves) if row else ([], leaves)
  wide, narrow = _by_width(paired)
  parts = []
  for arrays in narrow:
    total, rest = _in_chunks(arrays, row, other, squared)
    parts.append(total)
    shifted = [*shifted, *rest]
  if wide:
    parts.append(_by_pairs(wide, row, other, squared))
  if shifted:
    parts.append(_by_shifts(shifted, row, other, squared))
  return add(parts)


def sums_of_squares(leaves: Sequence[tuple[jax.Array, ...]], row: Row) -> jax.Array:
  """Sums ``x_k²`` over all parameters for every task k, [K].

  Args:
    leaves: As in :func:`sums_of_products`.
    row: Makes x, as in :func:`sums_of_products`.
  """
  leaves = _merge_small(leaves)
  tasks = range(leaves[0][0].shape[0])
  sums = []
  for arrays in _in_blocks(leaves):
    if len(tasks) > MOST_REDUCED:
      rows = jnp.sum(jnp.square(row(ALL_TASKS, *arrays)), axis=2)
    else:  # In a single sum for all tasks, XLA on CPUs would store the squares.
      squares = [jnp.square(row(k, *[a[k] for a in arrays])) for k in tasks]
      rows = jnp.stack(_sum_over(squares, axis=1))
    sums.append(rows)
  return jnp.sum(jnp.concatenate(sums, axis=1), axis=1)


def _by_size(leaves):
  """Splits parameters into those for :func:`_by_pairs` and those for the others."""
  if leaves[0][0].shape[0] > MOST_PAIRED:
    return [], leaves
  ordered = sorted(leaves, key=lambda arrays: -arrays[0][0].size)
  large = [a for a in ordered[:PAIRED_LEAVES] if a[0][0].size >= PAIRED_SIZE]
  return large, ordered[len(large) :]


def _by_width(leaves):
  """Splits parameters into those of wide dtypes and those with a narrow one."""
  narrow = [any(a.dtype.itemsize < 4 for a in arrays) for arrays in leaves]
  pairs = list(zip(leaves, narrow, strict=True))
  return [x for x, is_narrow in pairs if not is_narrow], [x for x, n in pairs if n]


def _in_chunks(arrays, row, other, squared):
  """Sums products over a parameter, which is widened chunk by chunk.

  Args:
    arrays: The parameter's stacked arrays.
    row: As in :func:`sums_of_products`.
    other: As in :func:`sums_of_products`.
    squared: As in :func:`sums_of_products`.

  Returns:
    The sums over all whole chunks; and the parameters that are left, one or none.
  """
  flat = [a.reshape(a.shape[0], -1) for a in arrays]
  count, rest = divmod(flat[0].shape[1], CHUNK)

  def chunk(index):
    parts = [jax.lax.dynamic_slice_in_dim(a, index * CHUNK, CHUNK, 1) for a in flat]
    wide = tuple(part.astype(compute_dtype(part)) for part in parts)
    return _by_pairs([wide], row, other, squared)

  total = sum_exactly(count, in_place(chunk, count))
  return total, [tuple(a[:, count * CHUNK :] for a in flat)] if rest else []


def _by_pairs(leaves, row, other, squared):
  """Sums a separate product for each pair of tasks, in one reduction of many outputs.

  Arguments and result are as in :func:`sums_of_products`.
  """
  tasks = range(leaves[0][0].shape[0])
  pairs = [(i, j) for i in tasks for j in tasks if other or j >= i]
  sums_of_rows = []
  for arrays in _in_blocks(leaves):
    blocks = [[a[k] for a in arrays] for k in tasks]

    def each_task(make, blocks=blocks):
      return [make(k, *blocks[k]) for k in tasks] if make else []

    x, z = each_task(row), each_task(squared)
    y = each_task(other) or x
    terms = [x[i] * y[j] for i, j in pairs] + [z_k * z_k for z_k in z]
    sums_of_rows.append(_sum_over(terms, axis=1))
  sums = [jnp.sum(jnp.concatenate(rows)) for rows in zip(*sums_of_rows, strict=True)]
  place = {pair: n for n, pair in enumerate(pairs)}
  where = [[place.get((i, j), place.get((j, i), 0)) for j in tasks] for i in tasks]
  products = jnp.stack([jnp.stack([sums[n] for n in row]) for row in where])
  squares = sums[len(pairs) :]
  return products, jnp.stack(squares) if squares else None


def _by_shifts(leaves, row, other, squared):
  """Multiplies all tasks by all tasks shifted by one, by two and so on, and sums.

  This has fewer outputs to compile than :func:`_by_pairs`. Arguments and result are as
  in :func:`sums_of_products`.
  """
  num_tasks = leaves[0][0].shape[0]
  shifts = range(num_tasks if other else num_tasks // 2 + 1) if row else []
  sums_of_rows = []
  for arrays in _in_blocks(leaves):

    def all_tasks(make, arrays=arrays):
      # [R, K, B]: a block of all tasks is contiguous, so that it fits the cache.
      return jnp.swapaxes(make(ALL_TASKS, *arrays), 0, 1)

    terms = []
    if row:
      x = all_tasks(row)
      y = all_tasks(other) if other else x
      terms += [x * jnp.roll(y, -shift, axis=1) for shift in shifts]
    if squared:
      terms.append(jnp.square(all_tasks(squared)))
    sums_of_rows.append(_sum_over(terms, axis=2))
  sums = [
    jnp.sum(jnp.concatenate(rows), axis=0) for rows in zip(*sums_of_rows, strict=True)
  ]
  squares = sums.pop() if squared else None
  if not row:
    return None, squares
  i, j = jnp.indices((num_tasks, num_tasks))
  # Without `other` the products are symmetric, and half of the shifts are enough.
  ahead, behind = (j - i) % num_tasks, (i - j) % num_tasks
  known = ahead < len(shifts)
  where = jnp.where(known, ahead, behind), jnp.where(known, i, j)
  return jnp.stack(sums)[where], squares


def _sum_over(terms, axis):
  """Sums several arrays over one axis in a single pass."""
  zeros = tuple(jnp.zeros((), term.dtype) for term in terms)
  return jax.lax.reduce(tuple(terms), zeros, lambda a, b: add([a, b]), (axis,))


def _by_blocks(leaves, row, other, squared, usual_width):
  """Sums the matrix products of blocks of columns, each of which fits a core's cache.

  Arguments and result are as in :func:`sums_of_products`. ``usual_width`` is the number
  of columns to aim for.
  """
  num_tasks = leaves[0][0].shape[0]

  def block(parts):
    x = row(ALL_TASKS, *parts)
    y = other(ALL_TASKS, *parts) if other else x
    products = jnp.matmul(x, y.T, precision="highest")
    if not squared:
      return products, None
    return products, jnp.sum(jnp.square(squared(ALL_TASKS, *parts)), axis=1)

  sums = []
  for arrays in leaves:
    flat = [a.reshape(num_tasks, -1) for a in arrays]
    size = flat[0].shape[1]
    # A width that divides the size: XLA would store the remaining columns.
    widths = range(3 * usual_width // 2, usual_width // 2, -128)
    width = next((w for w in widths if size % w == 0), usual_width)
    count, rest = divmod(size, width)

    def numbered(index, flat=flat, width=width):
      start = index * width
      return block([jax.lax.dynamic_slice_in_dim(a, start, width, 1) for a in flat])

    if count:
      narrow = any(a.dtype.itemsize < 4 for a in arrays)
      term = in_place(numbered, count) if narrow else numbered
      sums.append(sum_exactly(count, term))
    if rest:
      sums.append(block([a[:, count * width :] for a in flat]))
  return add(sums)


def in_place(
  term: Callable[[jax.Array], Any], count: int
) -> Callable[[jax.Array], Any]:
  """Keeps XLA from copying narrow arrays as a whole, in a loop that widens their parts.

  XLA would move the conversion to the wider dtype out of the loop. It does not move it
  out of a branch, even of one that is always taken.

  Args:
    term: From the index in the loop to arrays.
    count: The number of indices, which are below it.

  Returns:
    ``term`` inside of a branch.
  """

  def branch(index):
    shapes = jax.eval_shape(term, index)
    zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return jax.lax.cond(index < count, term, lambda _: zero, index)

  return branch


def sum_exactly(count, term):
  """Sums ``term(0)`` to ``term(count - 1)`` by Kahan's method.

  Each addition's rounding error is taken off the next term.
  """
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
  """Yields each parameter's arrays reshaped to [K, R, B], with B at most BLOCK.

  Where only small B divide a parameter, its last numbers follow as [K, 1, rest].
  """
  for arrays in leaves:
    num_tasks, size = arrays[0].shape[0], arrays[0][0].size
    largest = min(BLOCK, size)
    # In the parameter's own shape XLA would share the tasks' slices with the weighted
    # sum, and keep wide copies of them where their dtype is narrow.
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
  """Concatenates small parameters if they are many, to save compilation time."""
  small = [arrays for arrays in leaves if arrays[0][0].size <= SMALL]
  if len(small) <= MANY:
    return leaves
  large = [arrays for arrays in leaves if arrays[0][0].size > SMALL]
  flat = [[a.reshape(a.shape[0], -1) for a in arrays] for arrays in small]
  return [*large, tuple(_concatenate(parts) for parts in zip(*flat, strict=True))]


def _concatenate(parts):
  """Concatenates arrays [K, size] along the sizes, in a dtype that holds them all."""
  dtypes = {part.dtype for part in parts}
  dtype = dtypes.pop() if len(dtypes) == 1 else compute_dtype(parts)
  return jnp.concatenate([part.astype(dtype) for part in parts], axis=1)
