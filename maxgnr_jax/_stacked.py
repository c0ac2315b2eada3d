"""Everything that touches K×D numbers: momentum, norms, Gram matrix, combination.

A *stacked* pytree holds the K tasks on the leading axis of every leaf. Arithmetic is
in float32 at least, whatever dtype the numbers are stored in.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from maxgnr_jax._gnr import GradientStats
from maxgnr_jax._sums import sums_of_products, sums_of_squares

# Numbers of each parameter, and parameters, that tell how large a gradient is.
SAMPLE, SAMPLED_LEAVES = 64, 8
# Tasks for which combinations and comparisons are written out: XLA makes one loop of
# that, without copies. It does not of more.
MOST_TERMS = 15


def zeros(params: Any, num_tasks: int, dtype: Any | None) -> Any:
  """A stacked pytree of zeros, ``[num_tasks, *param.shape]`` in every leaf."""
  return jax.tree.map(
    lambda p: jnp.zeros(
      (num_tasks, *jnp.shape(p)), jnp.result_type(p) if dtype is None else dtype
    ),
    params,
  )


def decay(momentum: Any, grads: Any, gamma: jax.typing.ArrayLike) -> Any:
  """``γ m + (1 - γ) g`` (Eq. 13), stored in the momentum's dtype."""

  def leaf(m, g):
    wide = compute_dtype((m, g))
    g = g.astype(wide)
    # One step's NaN must not stay for ever: there the momentum starts again.
    before = jnp.where(jnp.isfinite(m), m.astype(wide), g)
    change = (1 - jnp.asarray(gamma, wide)) * (g - before)
    return (before + change).astype(m.dtype)

  return jax.tree.map(leaf, momentum, grads)


def measure(
  grads: Any, momentum: Any, gamma: jax.typing.ArrayLike, dtype: Any
) -> GradientStats:
  """Norms and cosines of the signals m and the noises ``n = g - m`` (Eq. 16).

  Args:
    grads: Stacked pytree with at least one array.
    momentum: Stacked pytree like it, made of ``grads`` by :func:`decay`.
    gamma: The γ it was made with.
    dtype: Of the arithmetic and the result.

  Returns:
    What Eq. 17 needs to know of the K tasks.
  """
  pairs = list(zip(jax.tree.leaves(grads), jax.tree.leaves(momentum), strict=True))
  # Scaled before it is squared: a task's gradients may be of any size.
  inverse, scale = _scales(pairs, dtype)

  def noise(k, g, m):
    difference = g.astype(dtype) - m.astype(dtype)
    return difference * _along(inverse[k], difference)

  gram, squared_norm = sums_of_products(
    pairs, noise, squared=_scaled_row(1, inverse, dtype)
  )
  gradient_norm = scale * jnp.sqrt(squared_norm)
  scaled_norm = jnp.sqrt(jnp.diagonal(gram))
  # At γ = 0, m is g, and what rounding leaves of their difference is no noise. Nor is
  # what the rounding of a momentum leaves that moves by 1 - γ of the difference only.
  gamma = jnp.asarray(gamma, dtype)
  rounding = _coarsest(momentum) / (1 - gamma) * gradient_norm
  noisy = (scale * scaled_norm > rounding) & (gamma > 0)
  divisor = jnp.where(noisy, scaled_norm, 1.0)
  cosine = jnp.clip(gram / divisor[:, None] / divisor[None, :], -1.0, 1.0)
  cosine = jnp.where(jnp.eye(noisy.size, dtype=bool), jnp.ones((), dtype), cosine)
  return GradientStats(
    gradient_norm=gradient_norm,
    noise_norm=jnp.where(noisy, scale * scaled_norm, 0.0),
    noise_cosine=jnp.where(noisy[:, None] & noisy[None, :], cosine, 0.0),
  )


def gram(stacked: Any, dtype: Any, other: Any = None) -> jax.Array:
  """``⟨g_i, g_j⟩`` of the tasks' gradients, [K, K]. Overflows with norms above 1e19.

  With ``other``, stacked gradients too, ``⟨g_i, other_j⟩``.
  """
  leaves = [(x,) for x in jax.tree.leaves(stacked)]
  inverse, scale = _scales(leaves, dtype)
  if other is None:
    scaled, _ = sums_of_products(leaves, _scaled_row(0, inverse, dtype))
    return scale[:, None] * scale[None, :] * scaled
  others = [(y,) for y in jax.tree.leaves(other)]
  other_inverse, other_scale = _scales(others, dtype)
  scaled, _ = sums_of_products(
    [x + y for x, y in zip(leaves, others, strict=True)],
    _scaled_row(0, inverse, dtype),
    _scaled_row(1, other_inverse, dtype),
  )
  return scale[:, None] * other_scale[None, :] * scaled


def norms(stacked: Any, dtype: Any) -> jax.Array:
  """``‖g_k‖`` of the tasks' gradients, [K]."""
  leaves = [(x,) for x in jax.tree.leaves(stacked)]
  inverse, scale = _scales(leaves, dtype)
  return scale * jnp.sqrt(sums_of_squares(leaves, _scaled_row(0, inverse, dtype)))


def mix(a: jax.Array, first: Any, b: jax.Array, second: Any) -> Any:
  """``a_k x_k + b_k y_k`` of every task of two stacked pytrees, in x's dtypes."""

  def leaf(x, y):
    wide = compute_dtype((x, y))

    def times(factor, z):
      return factor.astype(wide).reshape(-1, *(1,) * (z.ndim - 1)) * z.astype(wide)

    return (times(a, x) + times(b, y)).astype(x.dtype)

  return jax.tree.map(leaf, first, second)


def adagrad_risks(squares: Any, grads: Any, dtype: Any) -> tuple[Any, jax.Array]:
  """Adds ``g²`` to ``squares``; returns them and ``Σ g² / √squares`` [K]."""
  squares = jax.tree.map(lambda s, g: s + jnp.square(g.astype(s.dtype)), squares, grads)

  def row(k, s, g):
    root = jnp.sqrt(jnp.where(s > 0, jnp.sqrt(s), 1.0)).astype(dtype)
    return g.astype(dtype) / root

  pairs = list(zip(jax.tree.leaves(squares), jax.tree.leaves(grads), strict=True))
  return squares, sums_of_squares(pairs, row)


def combine(weights: jax.Array, grads: Any, like: Any) -> Any:
  """``Σ_k w_k g_k`` in the dtypes of ``like``, a pytree with the same structure."""

  def leaf(g, reference):
    wide = compute_dtype(g)
    w = weights.astype(wide)
    tasks = g.shape[0]
    if tasks <= MOST_TERMS:
      combined = add([w[k] * g[k].astype(wide) for k in range(tasks)])
    elif g.dtype == wide:
      combined = jnp.tensordot(w, g, 1, precision="highest")
    else:  # the product that XLA fuses with the conversion
      columns = g.astype(wide).reshape(tasks, -1).T
      combined = jnp.matmul(columns, w, precision="highest").reshape(g.shape[1:])
    return combined.astype(jnp.result_type(reference))

  return jax.tree.map(leaf, grads, like)


def apply(leaf: Callable[..., jax.Array], stacked: Any, key: Any = None) -> Any:
  """``leaf`` of every array, [K, *shape] to [*shape], in the arithmetic's dtype.

  Args:
    leaf: Takes an array, and a PRNG key of its own if ``key`` is given.
    stacked: Stacked pytree.
    key: PRNG key.
  """
  arrays, treedef = jax.tree.flatten(stacked)
  wide = [x.astype(compute_dtype(x)) for x in arrays]
  keys = [()] * len(wide) if key is None else zip(jax.random.split(key, len(wide)))
  combined = [leaf(x, *k) for x, k in zip(wide, keys, strict=True)]
  return jax.tree.unflatten(treedef, combined)


def add(rows: Sequence[jax.Array] | jax.Array) -> jax.Array:
  """The sum over the tasks, one by one: XLA fuses that, but not a sum over an axis."""
  return functools.reduce(jnp.add, list(rows))


def sorted_over_tasks(stacked: jax.Array) -> list[jax.Array]:
  """Each coordinate's values in ascending order: K arrays like a task's.

  Odd-even transposition of whole arrays, K²/2 comparisons in one fused loop; XLA's own
  sort, which many tasks need, goes through the coordinates one by one.
  """
  if stacked.shape[0] > MOST_TERMS:
    return list(jnp.sort(stacked, axis=0))
  rows = list(stacked)
  for round_ in range(len(rows)):
    for i in range(round_ % 2, len(rows) - 1, 2):
      low, high = rows[i], rows[i + 1]
      rows[i], rows[i + 1] = jnp.minimum(low, high), jnp.maximum(low, high)
  return rows


def one_task(stacked: Any) -> Any:
  """What one task's part of a stacked pytree looks like."""
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), stacked)


def compute_dtype(tree: Any) -> Any:
  """Dtype to compute in: float32, or float64 where the tree holds any."""
  wide = any(jnp.result_type(x) == jnp.float64 for x in jax.tree.leaves(tree))
  return jnp.float64 if wide else jnp.float32


def _scaled_row(position: int, inverse: jax.Array, dtype: Any):
  """Makes rows of one of the arrays, in units of each task's scale."""

  def row(k, *arrays):
    x = arrays[position].astype(dtype)
    return x * _along(inverse[k], x)

  return row


def _along(values: jax.Array, x: jax.Array) -> jax.Array:
  """A number, or one per task, against a task's array or all of theirs."""
  return values.reshape(values.shape + (1,) * (x.ndim - values.ndim))


def _scales(leaves: Sequence[tuple[jax.Array, ...]], dtype: Any):
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
  scale = functools.reduce(jnp.maximum, sampled)
  scale = jnp.where((scale > 0) & jnp.isfinite(scale), scale, 1.0)
  return 1.0 / scale, scale


def _coarsest(tree: Any) -> float:
  """The largest relative rounding error of the tree's dtypes."""
  return max(float(jnp.finfo(x.dtype).eps) for x in jax.tree.leaves(tree))
