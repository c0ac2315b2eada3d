"""Everything that touches K×D numbers: momentum, norms, Gram matrix, combination.

A *stacked* pytree holds the K tasks on the leading axis of every leaf. Arithmetic is
in float32 at least, whatever dtype the numbers are stored in.
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp

from maxgnr_jax._gnr import GradientStats


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
  signals = [_rows(m, dtype) for m in jax.tree.leaves(momentum)]
  noises = [
    _rows(g, dtype) - signal
    for g, signal in zip(jax.tree.leaves(grads), signals, strict=True)
  ]
  # Scaled before it is squared: a task's gradients may be of any size.
  signal_scale, noise_scale = _largest(signals), _largest(noises)
  squared_norm = _total(
    jnp.sum(jnp.square(x / signal_scale[:, None]), axis=1) for x in signals
  )
  scaled = [x / noise_scale[:, None] for x in noises]
  gram = _total(_products(x, x) for x in scaled)

  gradient_norm = signal_scale * jnp.sqrt(squared_norm)
  scaled_norm = jnp.sqrt(jnp.diagonal(gram))
  # At γ = 0, m is g, and what rounding leaves of their difference is no noise. Nor is
  # what the rounding of a momentum leaves that moves by 1 - γ of the difference only.
  gamma = jnp.asarray(gamma, dtype)
  rounding = _coarsest(momentum) / (1 - gamma) * gradient_norm
  noisy = (noise_scale * scaled_norm > rounding) & (gamma > 0)
  divisor = jnp.where(noisy, scaled_norm, 1.0)
  cosine = jnp.clip(gram / divisor[:, None] / divisor[None, :], -1.0, 1.0)
  cosine = jnp.where(jnp.eye(noisy.size, dtype=bool), jnp.ones((), dtype), cosine)
  return GradientStats(
    gradient_norm=gradient_norm,
    noise_norm=jnp.where(noisy, noise_scale * scaled_norm, 0.0),
    noise_cosine=jnp.where(noisy[:, None] & noisy[None, :], cosine, 0.0),
  )


def gram(stacked: Any, dtype: Any, other: Any = None) -> jax.Array:
  """``⟨g_i, g_j⟩`` of the tasks' gradients, [K, K]. Overflows with norms above 1e19.

  With ``other``, stacked gradients too, ``⟨g_i, other_j⟩``.
  """
  rows, scale = _scaled_rows(stacked, dtype)
  columns, column_scale = (rows, scale) if other is None else _scaled_rows(other, dtype)
  scaled = _total(_products(x, y) for x, y in zip(rows, columns, strict=True))
  return scale[:, None] * column_scale[None, :] * scaled


def norms(stacked: Any, dtype: Any) -> jax.Array:
  """``‖g_k‖`` of the tasks' gradients, [K]."""
  rows, scale = _scaled_rows(stacked, dtype)
  return scale * jnp.sqrt(_total(jnp.sum(x * x, axis=1) for x in rows))


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
  squared = jax.tree.map(lambda s, g: jnp.square(g.astype(s.dtype)), squares, grads)
  squares = jax.tree.map(jnp.add, squares, squared)

  def risks(s, g2):
    terms = jnp.where(s > 0, g2 / jnp.sqrt(jnp.where(s > 0, s, 1.0)), 0.0)
    return jnp.sum(_rows(terms, dtype), axis=1)

  pairs = zip(jax.tree.leaves(squares), jax.tree.leaves(squared), strict=True)
  return squares, _total(risks(s, g2) for s, g2 in pairs)


def combine(weights: jax.Array, grads: Any, like: Any) -> Any:
  """``Σ_k w_k g_k`` in the dtypes of ``like``, a pytree with the same structure."""

  def leaf(g, reference):
    wide = compute_dtype(g)
    combined = jnp.tensordot(
      weights.astype(wide), g.astype(wide), 1, precision="highest"
    )
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


def one_task(stacked: Any) -> Any:
  """What one task's part of a stacked pytree looks like."""
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), stacked)


def compute_dtype(tree: Any) -> Any:
  """Dtype to compute in: float32, or float64 where the tree holds any."""
  wide = any(jnp.result_type(x) == jnp.float64 for x in jax.tree.leaves(tree))
  return jnp.float64 if wide else jnp.float32


def _rows(x: jax.Array, dtype: Any) -> jax.Array:
  return x.astype(dtype).reshape(x.shape[0], -1)


def _scaled_rows(stacked: Any, dtype: Any) -> tuple[list[jax.Array], jax.Array]:
  """The arrays as [K, size] in units of each task's largest magnitude, and those."""
  rows = [_rows(x, dtype) for x in jax.tree.leaves(stacked)]
  scale = _largest(rows)
  return [x / scale[:, None] for x in rows], scale


def _products(rows: jax.Array, columns: jax.Array) -> jax.Array:
  return jnp.matmul(rows, columns.T, precision="highest")


def _coarsest(tree: Any) -> float:
  """The largest relative rounding error of the tree's dtypes."""
  return max(float(jnp.finfo(x.dtype).eps) for x in jax.tree.leaves(tree))


def _total(terms: Iterable[jax.Array]) -> jax.Array:
  return functools.reduce(jnp.add, terms)


def _largest(rows: list[jax.Array]) -> jax.Array:
  """The largest magnitude in each task's numbers; 1 where all are zero."""
  largest = jnp.stack([jnp.max(jnp.abs(x), axis=1, initial=0.0) for x in rows])
  largest = jnp.max(largest, axis=0)
  return jnp.where(largest > 0, largest, 1.0)
