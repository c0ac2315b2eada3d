"""Everything that touches K×D numbers: momentum, norms, Gram matrix, combination.

A *stacked* pytree holds the K tasks on the leading axis of every leaf. Arithmetic is
in float32 at least, whatever dtype the numbers are stored in.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from maxgnr_jax._gnr import GradientStats
from maxgnr_jax._rounding import stochastically_rounded
from maxgnr_jax._shards import Leaves, Reduce, over_parameters
from maxgnr_jax._sums import in_place, sums_of_products, sums_of_squares

# Numbers of each parameter, and parameters, that tell how large a gradient is.
SAMPLE, SAMPLED_LEAVES = 64, 8
# Tasks for which combinations and comparisons are written out: XLA makes one loop of
# that, without copies. It does not of more.
MOST_TERMS = 15


def zeros(params: Any, num_tasks: int, dtype: Any | None) -> Any:
  """A stacked pytree of zeros, ``[num_tasks, *param.shape]`` in every leaf."""

  def leaf(p):
    own = jnp.result_type(p) if dtype is None else dtype
    shape = (num_tasks, *jnp.shape(p))
    if isinstance(p, jax.ShapeDtypeStruct):
      return jnp.zeros(shape, own)
    return jnp.broadcast_to(jnp.zeros_like(p, own), shape)  # sharded as p

  return jax.tree.map(leaf, params)


def stack(trees: Sequence[Any]) -> Any:
  """Pytrees of the same structure as one, stacked on a new leading axis."""
  return jax.tree.map(lambda *rows: jnp.stack(rows), *trees)


def decay(
  momentum: Any,
  grads: Any,
  gamma: jax.Array,
  present: jax.Array | None = None,
  seed: jax.Array | None = None,
) -> Any:
  """``γ m + (1 - γ) g`` (Eq. 13), stored in the momentum's dtype.

  Args:
    momentum: Stacked pytree.
    grads: Stacked pytree like it.
    gamma: [] or [K].
    present: [K], bool: the other tasks' momentum stays as it is. Default: all.
    seed: [], uint32: rounds stochastically, by this. Default: to the nearest.
  """
  number = itertools.count()

  def leaf(m, g):
    wide = compute_dtype((m, g))
    g = g.astype(wide)
    # One step's NaN must not stay for ever: there the momentum starts again.
    before = jnp.where(jnp.isfinite(m), m.astype(wide), g)
    change = _along((1 - gamma).astype(wide), g) * (g - before)
    after = before + change
    if seed is None:
      after = after.astype(m.dtype)
    else:
      after = stochastically_rounded(after, m.dtype, seed, next(number))
    return after if present is None else jnp.where(_along(present, m), after, m)

  return jax.tree.map(leaf, momentum, grads)


def measure(
  grads: Any, momentum: Any, gamma: jax.Array, dtype: Any
) -> tuple[GradientStats, jax.Array]:
  """Norms and cosines of the signals m and the noises ``n = g - m`` (Eq. 16).

  Of the momentum that :func:`decay` will make, ``γ m + (1 - γ) g``, before it is made:
  a task's numbers must be known to be finite before they are let into it.

  Args:
    grads: Stacked pytree with at least one array.
    momentum: Stacked pytree like it, of the step before.
    gamma: [K], of each task's momentum.
    dtype: Of the arithmetic and the result.

  Returns:
    What Eq. 17 needs to know of the K tasks, and which tasks' gradients are finite,
    [K]. What was measured of the others is 0.
  """
  pairs = list(zip(jax.tree.leaves(grads), jax.tree.leaves(momentum), strict=True))
  gamma = gamma.astype(dtype)

  def sums(reduce, pairs, gamma):
    # Scaled before it is squared: a task's gradients may be of any size.
    inverse, scale = _scales(reduce, pairs, dtype)

    def change(k, g, m):  # g - γ m - (1 - γ) g = γ (g - m)
      difference = g.astype(dtype) - m.astype(dtype)
      return difference * _along(inverse[k], difference)

    def signal(k, g, m):
      before = m.astype(dtype)
      before *= _along(inverse[k], before)
      return before + _along(1 - gamma[k], before) * change(k, g, m)

    def products(leaves):
      return sums_of_products(leaves, change, squared=signal)

    return *reduce.sum(products, pairs), scale

  gram, squared_norm, scale = over_parameters(sums, pairs, gamma)
  squared_change = jnp.diagonal(gram)
  finite = jnp.isfinite(squared_change) & jnp.isfinite(squared_norm)
  gradient_norm = jnp.where(finite, scale * jnp.sqrt(squared_norm), 0.0)
  change_norm = jnp.sqrt(squared_change)
  noise_norm = gamma * scale * change_norm
  # At γ = 0, m is g, and what rounding leaves of their difference is no noise. Nor is
  # what the rounding of a momentum leaves that moves by 1 - γ of the difference only.
  rounding = _coarsest(momentum) / (1 - gamma) * gradient_norm
  noisy = finite & (noise_norm > rounding) & (gamma > 0)
  divisor = jnp.where(noisy, change_norm, 1.0)
  cosine = jnp.clip(gram / divisor[:, None] / divisor[None, :], -1.0, 1.0)
  cosine = jnp.where(jnp.eye(noisy.size, dtype=bool), jnp.ones((), dtype), cosine)
  stats = GradientStats(
    gradient_norm=gradient_norm,
    noise_norm=jnp.where(noisy, noise_norm, 0.0),
    noise_cosine=jnp.where(noisy[:, None] & noisy[None, :], cosine, 0.0),
  )
  return stats, finite


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


def only(present: jax.Array, stacked: Any) -> Any:
  """A stacked pytree with zeros for the tasks that are not ``present`` [K]."""
  return jax.tree.map(lambda x: jnp.where(_along(present, x), x, 0), stacked)


def gram(stacked: Any, dtype: Any, other: Any = None) -> jax.Array:
  """``⟨g_i, g_j⟩`` of the tasks' gradients, [K, K]. Overflows with norms above 1e19.

  With ``other``, stacked gradients too, ``⟨g_i, other_j⟩``.
  """
  trees = (stacked,) if other is None else (stacked, other)
  leaves = list(zip(*map(jax.tree.leaves, trees), strict=True))

  def sums(reduce, leaves):
    scales = [
      _scales(reduce, [(arrays[i],) for arrays in leaves], dtype)
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
    inverse, scale = _scales(reduce, leaves, dtype)
    row = _scaled_row(0, inverse, dtype)
    return reduce.sum(lambda leaves: sums_of_squares(leaves, row), leaves), scale

  squares, scale = over_parameters(sums, [(x,) for x in jax.tree.leaves(stacked)])
  return scale * jnp.sqrt(squares)


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

  def sums(reduce, pairs):
    return reduce.sum(lambda pairs: sums_of_squares(pairs, row), pairs)

  pairs = list(zip(jax.tree.leaves(squares), jax.tree.leaves(grads), strict=True))
  return squares, over_parameters(sums, pairs)


def combine(
  weights: jax.Array, grads: Any, like: Any, present: jax.Array | None = None
) -> Any:
  """``Σ_k w_k g_k`` in the dtypes of ``like``, a pytree with the same structure.

  Without the tasks that are not ``present`` [K], whose gradients may be anything.
  """

  def sums(weighted_sum):
    def leaf(g, reference):
      w = weights.astype(compute_dtype(g))
      return weighted_sum(w, g, present).astype(jnp.result_type(reference))

    return jax.tree.map(leaf, grads, like)

  if weights.size <= MOST_TERMS:
    return sums(_written_out)
  if present is None:
    return sums(_product)
  # A product has no room for what is not a number, and a loop takes longer.
  return jax.lax.cond(
    jnp.all(present), lambda: sums(_product), lambda: sums(_one_by_one)
  )


def _written_out(w, g, present):
  terms = [w[k] * g[k].astype(w.dtype) for k in range(w.size)]
  if present is not None:
    terms = [jnp.where(present[k], term, 0) for k, term in enumerate(terms)]
  return add(terms)


def _product(w, g, present):
  del present
  if g.dtype == w.dtype or jax.device_count() > 1:  # a reshape could gather it
    return jnp.tensordot(w, g.astype(w.dtype), 1, precision="highest")
  columns = g.astype(w.dtype).reshape(w.size, -1).T  # so XLA fuses the conversion
  return jnp.matmul(columns, w, precision="highest").reshape(g.shape[1:])


def _one_by_one(w, g, present):
  def term(k):
    x = jax.lax.dynamic_index_in_dim(g, k, keepdims=False)
    return jnp.where(present[k], w[k] * x.astype(w.dtype), 0)

  term = in_place(term, w.size) if g.dtype != w.dtype else term
  zero = jnp.zeros(g.shape[1:], w.dtype)
  return jax.lax.fori_loop(0, w.size, lambda k, total: total + term(k), zero)


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


def _scales(reduce: Reduce, leaves: Leaves, dtype: Any):
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


def _coarsest(tree: Any) -> float:
  """The largest relative rounding error of the tree's dtypes."""
  return max(float(jnp.finfo(x.dtype).eps) for x in jax.tree.leaves(tree))
