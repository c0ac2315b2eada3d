"""Everything that touches K×D numbers: momentum, norms, Gram matrix, combination.

A *stacked* pytree holds the K tasks on the leading axis of every leaf. Arithmetic is
in float32 at least, whatever dtype the numbers are stored in.
"""

import functools
from collections.abc import Iterable
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
  gram = _total(_gram(x / noise_scale[:, None]) for x in noises)

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


def gram(stacked: Any, dtype: Any) -> jax.Array:
  """``⟨g_i, g_j⟩`` of the tasks' gradients, [K, K]. Overflows with norms above 1e19."""
  rows = [_rows(x, dtype) for x in jax.tree.leaves(stacked)]
  scale = _largest(rows)
  scaled = _total(_gram(x / scale[:, None]) for x in rows)
  return scale[:, None] * scale[None, :] * scaled


def combine(weights: jax.Array, grads: Any, like: Any) -> Any:
  """``Σ_k w_k g_k`` in the dtypes of ``like``, a pytree with the same structure."""

  def leaf(g, reference):
    wide = compute_dtype(g)
    combined = jnp.tensordot(
      weights.astype(wide), g.astype(wide), 1, precision="highest"
    )
    return combined.astype(jnp.result_type(reference))

  return jax.tree.map(leaf, grads, like)


def one_task(stacked: Any) -> Any:
  """What one task's part of a stacked pytree looks like."""
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), stacked)


def compute_dtype(tree: Any) -> Any:
  """Dtype to compute in: float32, or float64 where the tree holds any."""
  wide = any(jnp.result_type(x) == jnp.float64 for x in jax.tree.leaves(tree))
  return jnp.float64 if wide else jnp.float32


def _rows(x: jax.Array, dtype: Any) -> jax.Array:
  return x.astype(dtype).reshape(x.shape[0], -1)


def _gram(rows: jax.Array) -> jax.Array:
  return jnp.matmul(rows, rows.T, precision="highest")


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
