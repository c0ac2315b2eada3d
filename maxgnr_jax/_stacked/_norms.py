"""Inner products and norms of stacked gradients, and which tasks' are finite.

Arithmetic is in float32 at least, whatever dtype the numbers are stored in.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from maxgnr_jax._linalg._active import along
from maxgnr_jax._stacked._combine import add
from maxgnr_jax._stacked._sharding import Leaves, Reduce, over_parameters
from maxgnr_jax._stacked._sums import sums_of_products, sums_of_squares
from maxgnr_jax._stacked._tree import compute_dtype

# Numbers of each parameter, and parameters, that tell how large a gradient is.
SAMPLE, SAMPLED_LEAVES = 64, 8


def gramian(stacked: Any, dtype: Any, other: Any = None) -> jax.Array:
  """``⟨g_i, g_j⟩`` of the tasks' gradients, [K, K]. Overflows with norms above 1e19.

  With ``other``, stacked gradients too, ``⟨g_i, other_j⟩``.
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
  """``‖g_k‖`` of the tasks' gradients, [K]."""

  def sums(reduce, leaves):
    inverse, scale = task_scales(reduce, leaves, dtype)
    row = _scaled_row(0, inverse, dtype)
    return reduce.sum(lambda leaves: sums_of_squares(leaves, row), leaves), scale

  squares, scale = over_parameters(sums, [(x,) for x in jax.tree.leaves(stacked)])
  return scale * jnp.sqrt(squares)


def finite(stacked: Any, num_tasks: int, dtype: Any) -> jax.Array:
  """Which tasks' gradients hold neither NaN nor infinity, [K]."""
  leaves = [(x,) for x in jax.tree.leaves(stacked)]
  if not leaves:
    return jnp.ones((num_tasks,), bool)

  def sums(reduce, leaves):
    def nothing(k, x):
      return 0 * x.astype(dtype)

    return reduce.sum(lambda leaves: sums_of_squares(leaves, nothing), leaves)

  return over_parameters(sums, leaves) == 0


def all_finite(tree: Any) -> jax.Array:
  """Whether no array of a pytree holds NaN or infinity, []."""
  dtype = compute_dtype(tree)

  def sums(reduce, leaves):
    def nothing(leaves):
      return add([jnp.sum(0 * x.astype(dtype)) for (x,) in leaves])

    return reduce.sum(nothing, leaves)

  return over_parameters(sums, [(x[None],) for x in jax.tree.leaves(tree)]) == 0


def _scaled_row(position: int, inverse: jax.Array, dtype: Any):
  """Makes rows of one of the arrays, in units of each task's scale."""

  def row(k, *arrays):
    x = arrays[position].astype(dtype)
    return x * along(inverse[k], x)

  return row


def task_scales(reduce: Reduce, leaves: Leaves, dtype: Any):
  """What to divide each task's numbers by before they are squared: [K], and inverses.

  The largest magnitude of a sample. It need be right within ten orders of magnitude
  only, and the largest of all would take one more pass over memory.
  """
  largest = sorted(leaves, key=lambda arrays: -arrays[0].size)[:SAMPLED_LEAVES]
  sampled = []
  for x in [x for arrays in largest for x in arrays if x.size]:
    flat = x.reshape(x.shape[0], -1)
    stride = -(-flat.shape[1] // SAMPLE)
    sampled.append(jnp.max(jnp.abs(flat[:, ::stride].astype(dtype)), axis=1))
  scale = reduce.largest(functools.reduce(jnp.maximum, sampled))
  scale = jnp.where((scale > 0) & jnp.isfinite(scale), scale, 1.0)
  return 1.0 / scale, scale
