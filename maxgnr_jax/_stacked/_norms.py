"""Inner products and norms of stacked gradients, and tests for NaN and infinity.

Arithmetic is in float32 at least, whatever dtype the numbers are stored in.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from maxgnr_jax._linalg._active import along
from maxgnr_jax._stacked._sharding import Leaves, Reduce, over_parameters
from maxgnr_jax._stacked._sums import sums_of_products, sums_of_squares
from maxgnr_jax._stacked._tree import add, compute_dtype

# A gradient's magnitude is estimated from this many elements of each parameter, and
# from this many parameters.
SAMPLE, SAMPLED_LEAVES = 64, 8


def gramian(stacked: Any, dtype: Any, other: Any = None) -> jax.Array:
  """Returns ``⟨g_i, g_j⟩`` for the tasks' gradients, [K, K].

  Entries overflow in float32 where norms exceed 1e19.

  Args:
    stacked: Stacked pytree, g.
    dtype: Dtype of the arithmetic and the result.
    other: Stacked pytree like it: then ``⟨g_i, other_j⟩``.
  """
  trees = (stacked,) if other is None else (stacked, other)
  leaves = list(zip(*map(jax.tree.leaves, trees), strict=True))

  def sums(reduce, leaves):
    scales = [
      task_scales(reduce, [(arrays[i],) for arrays in leaves], dtype)
      for i in range(len(trees))
    ]
    rows = [_scaled_row(i, inverse, dtype) for i, (inverse, _) in enumerate(scales)]
    products, _ = reduce.sum(lambda leaves: sums_of_products(leaves, *rows), leaves)
    return products, scales[0][1], scales[-1][1]

  products, scale, other_scale = over_parameters(sums, leaves)
  return scale[:, None] * other_scale[None, :] * products


def norms(stacked: Any, dtype: Any) -> jax.Array:
  """Returns ``‖g_k‖`` for the tasks' gradients, [K]."""

  def sums(reduce, leaves):
    inverse, scale = task_scales(reduce, leaves, dtype)
    row = _scaled_row(0, inverse, dtype)
    return reduce.sum(lambda leaves: sums_of_squares(leaves, row), leaves), scale

  squares, scale = over_parameters(sums, [(x,) for x in jax.tree.leaves(stacked)])
  return scale * jnp.sqrt(squares)


def finite(stacked: Any, num_tasks: int, dtype: Any) -> jax.Array:
  """Tells which tasks' gradients hold neither NaN nor infinity, [K]."""
  leaves = [(x,) for x in jax.tree.leaves(stacked)]
  if not leaves:
    return jnp.ones((num_tasks,), bool)

  def sums(reduce, leaves):
    def zero_if_finite(k, x):
      return 0 * x.astype(dtype)

    return reduce.sum(lambda leaves: sums_of_squares(leaves, zero_if_finite), leaves)

  return over_parameters(sums, leaves) == 0


def all_finite(tree: Any) -> jax.Array:
  """Tells whether no array of a pytree holds NaN or infinity, []."""
  dtype = compute_dtype(tree)

  def sums(reduce, leaves):
    def zero_if_finite(leaves):
      return add([jnp.sum(0 * x.astype(dtype)) for (x,) in leaves])

    return reduce.sum(zero_if_finite, leaves)

  return over_parameters(sums, [(x[None],) for x in jax.tree.leaves(tree)]) == 0


def _scaled_row(position: int, inverse: jax.Array, dtype: Any):
  """Returns a ``row`` for the sums: an array divided by each task's scale.

  Args:
    position: Which of a parameter's arrays to take.
    inverse: [K], one over each task's scale.
    dtype: Dtype of the arithmetic.
  """

  def row(k, *arrays):
    x = arrays[position].astype(dtype)
    return x * along(inverse[k], x)

  return row


def task_scales(reduce: Reduce, leaves: Leaves, dtype: Any):
  """Estimates each task's magnitude, so that squares of scaled numbers fit float32.

  It is the largest magnitude in a sample. It need be right within ten orders of
  magnitude only, and the exact maximum would read all numbers once more.

  Args:
    reduce: Takes the maximum over devices.
    leaves: For each parameter the stacked arrays, [K, *shape].
    dtype: Dtype of the result.

  Returns:
    One over the scales, [K], and the scales, [K]; 1 for tasks whose sample is zero or
    not finite.
  """
  largest = sorted(leaves, key=lambda arrays: -arrays[0].size)[:SAMPLED_LEAVES]
  sampled = []
  for x in [x for arrays in largest for x in arrays if x.size]:
    magnitudes = jnp.abs(reduce.sample(x, SAMPLE).astype(dtype))
    sampled.append(jnp.max(magnitudes, axis=tuple(range(1, magnitudes.ndim))))
  scale = reduce.largest(functools.reduce(jnp.maximum, sampled))
  scale = jnp.where((scale > 0) & jnp.isfinite(scale), scale, 1.0)
  return 1.0 / scale, scale
