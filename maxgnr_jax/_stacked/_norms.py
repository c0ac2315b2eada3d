"""Inner products and norms of stacked gradients, and tests for NaN and infinity.

Arithmetic is in float32 at least, whatever dtype the numbers are stored in. A gradient
counts as finite if the sum of its squares is, so that nothing measured of it overflows:
in float32 its norm must be below 1.8e19.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from maxgnr_jax._linalg._active import along
from maxgnr_jax._linalg._root import square_root
from maxgnr_jax._stacked._sharding import Reduce, over_parameters
from maxgnr_jax._stacked._sums import sums_of_products, sums_of_squares
from maxgnr_jax._stacked._tree import compute_dtype

# A gradient's magnitude is estimated from this many elements of each parameter, and
# from this many parameters.
SAMPLE, SAMPLED_LEAVES = 64, 8
# Arrays of at most this many numbers are concatenated where only one sum is needed:
# starting a sum takes longer than copying them.
SMALL = 2**14


def gramian(
  stacked: Any, dtype: Any, other: Any = None, mask: jax.Array | None = None
) -> jax.Array:
  """Returns ``⟨g_i, g_j⟩`` for the tasks' gradients, [K, K].

  Entries overflow in float32 where norms exceed 1e19.

  Args:
    stacked: Stacked pytree, g.
    dtype: Dtype of the arithmetic and the result.
    other: Stacked pytree like it: then ``⟨g_i, other_j⟩``.
    mask: [K], bool: tasks whose entries matter. Default: all.
  """
  trees = (stacked,) if other is None else (stacked, other)
  leaves = list(zip(*map(jax.tree.leaves, trees), strict=True))

  def sums(reduce, leaves, *mask):
    scales = [
      task_scale(magnitude(reduce, [arrays[i] for arrays in leaves], dtype, *mask))
      for i in range(len(trees))
    ]
    rows = [_scaled_row(i, inverse) for i, (inverse, _) in enumerate(scales)]
    products, _ = reduce.sum(lambda leaves: sums_of_products(leaves, *rows), leaves)
    return products, scales[0][1], scales[-1][1]

  masks = () if mask is None else (mask,)
  products, scale, other_scale = over_parameters(sums, leaves, *masks)
  return scale[:, None] * other_scale[None, :] * products


def gramian_and_largest(stacked: Any, dtype: Any) -> tuple[jax.Array, jax.Array]:
  """Returns ``⟨g_i, g_j⟩``, [K, K], and the largest magnitude of every task, [K].

  Reads the gradients twice, but needs none of them once more in a branch, so that they
  can be forgotten at once.

  Args:
    stacked: Stacked pytree, g.
    dtype: Dtype of the arithmetic and the results.
  """

  def sums(reduce, leaves):
    largest = reduce.largest(_largest([x for (x,) in leaves], dtype))
    inverse, scale = task_scale(jax.lax.stop_gradient(largest))
    row = _scaled_row(0, inverse)
    products, _ = reduce.sum(lambda leaves: sums_of_products(leaves, row), leaves)
    return products, scale, largest

  leaves = [(x,) for x in jax.tree.leaves(stacked)]
  products, scale, largest = over_parameters(sums, leaves)
  return scale[:, None] * scale[None, :] * products, largest


def norms(stacked: Any, dtype: Any) -> jax.Array:
  """Returns ``‖g_k‖`` for the tasks' gradients, [K]."""

  def sums(reduce, leaves):
    inverse, scale = task_scale(magnitude(reduce, [x for (x,) in leaves], dtype))
    row = _scaled_row(0, inverse)
    return reduce.sum(lambda leaves: sums_of_squares(leaves, row), leaves), scale

  squares, scale = over_parameters(sums, [(x,) for x in jax.tree.leaves(stacked)])
  return scale * square_root(squares)


def finite(stacked: Any, num_tasks: int, dtype: Any) -> jax.Array:
  """Tells which tasks' gradients are finite, and their sums of squares too, [K]."""
  leaves = [(x,) for x in jax.tree.leaves(stacked)]
  if not leaves:
    return jnp.ones((num_tasks,), bool)

  def sums(reduce, leaves):
    def row(k, x):
      return x.astype(dtype)

    return reduce.sum(lambda leaves: sums_of_squares(leaves, row), leaves)

  return jnp.isfinite(over_parameters(sums, leaves))


def all_finite(tree: Any) -> jax.Array:
  """Tells whether a pytree's numbers, and the sum of their squares, are finite, []."""
  dtype = compute_dtype(tree)

  def sums(reduce, leaves):
    def squares(leaves):
      small = [x.astype(dtype).reshape(1, -1) for (x,) in leaves if x.size <= SMALL]
      large = [x for (x,) in leaves if x.size > SMALL]
      together = [jnp.concatenate(small, axis=1)] if small else []
      rows = [(x,) for x in [*together, *large]]
      return sums_of_squares(rows, lambda k, x: x.astype(dtype))[0]

    return reduce.sum(squares, leaves)

  return jnp.isfinite(
    over_parameters(sums, [(x[None],) for x in jax.tree.leaves(tree)])
  )


def largest(stacked: Any, dtype: Any, mask: jax.Array) -> jax.Array:
  """Estimates the largest magnitude in the gradient of every task, [K].

  It is 0 for tasks in ``mask``, [K], only if every number of the gradient is zero.
  """

  def in_shards(reduce, leaves, mask):
    return magnitude(reduce, [x for (x,) in leaves], dtype, mask)

  leaves = [(x,) for x in jax.tree.leaves(stacked)]
  return over_parameters(in_shards, leaves, mask)


def zero(stacked: Any, dtype: Any) -> jax.Array:
  """Tells which tasks' gradients are exactly zero, [K], by reading all numbers."""

  def in_shards(reduce, leaves):
    return reduce.largest(_largest([x for (x,) in leaves], dtype))

  leaves = [(x,) for x in jax.tree.leaves(stacked)]
  return over_parameters(in_shards, leaves) == 0


def _scaled_row(position: int, inverse: jax.Array):
  """Returns a ``row`` for the sums: an array divided by each task's scale.

  Args:
    position: Which of a parameter's arrays to take.
    inverse: [K], one over each task's scale, in the dtype of the arithmetic.
  """

  def row(k, *arrays):
    x = arrays[position].astype(inverse.dtype)
    return x * along(inverse[k], x)

  return row


def magnitude(
  reduce: Reduce,
  arrays: Sequence[jax.Array],
  dtype: Any,
  mask: jax.Array | None = None,
) -> jax.Array:
  """Estimates the largest magnitude of every task's numbers, [K].

  It is the largest of a sample. Where the sample is so small that squares of such
  numbers would vanish, all numbers are looked at.

  Args:
    reduce: Takes the maximum over devices.
    arrays: Stacked arrays, [K, *shape].
    dtype: Dtype of the result.
    mask: [K], bool: tasks for which it matters. Default: all.
  """
  # Results do not depend on the scale, and a maximum over devices has no derivative.
  arrays = [jax.lax.stop_gradient(x) for x in arrays if x.size]
  arrays.sort(key=lambda x: -x.size)
  sample = [reduce.sample(x, SAMPLE) for x in arrays[:SAMPLED_LEAVES]]
  sampled = reduce.largest(_largest_of_sample(sample, dtype))
  doubtful = sampled < smallest_scale(dtype)
  return jax.lax.cond(
    jnp.any(doubtful if mask is None else doubtful & mask),
    lambda: reduce.largest(_largest(arrays, dtype)),
    lambda: sampled,
  )


def _largest(arrays: Sequence[jax.Array], dtype: Any) -> jax.Array:
  """Returns the largest magnitude of every task's numbers, [K]."""

  def rows(x):
    axes = tuple(range(1, x.ndim))
    # Older versions of XLA would store the magnitudes of all numbers.
    return jnp.maximum(jnp.max(x, axes), -jnp.min(x, axes)).astype(dtype)

  return functools.reduce(jnp.maximum, map(rows, arrays))


def _largest_of_sample(samples: Sequence[jax.Array], dtype: Any) -> jax.Array:
  """Returns the same for few numbers, with one maximum over devices, not two."""
  rows = [jnp.max(jnp.abs(x), tuple(range(1, x.ndim))).astype(dtype) for x in samples]
  return functools.reduce(jnp.maximum, rows)


def task_scale(largest: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns one over each task's scale, by which numbers are multiplied, and the scale.

  The scale is 1 unless squares of numbers of this magnitude would vanish. It need not
  keep squares from overflowing: such gradients do not count as finite.

  Args:
    largest: [K], the largest magnitude of each task's numbers.
  """
  small = largest < smallest_scale(largest.dtype)
  # The inverse of a subnormal number is infinite.
  tiny = float(jnp.finfo(largest.dtype).tiny)
  scale = jnp.where(small & (largest > 0), jnp.maximum(largest, tiny), 1.0)
  return 1.0 / scale, scale


def smallest_scale(dtype: Any) -> float:
  """Returns the magnitude below which numbers are scaled before they are squared.

  Differences of gradients, which are smaller still, must not vanish when they are
  squared, so that it is far above the square root of the smallest number.
  """
  return float(jnp.finfo(dtype).tiny) ** 0.25
