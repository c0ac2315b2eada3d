"""Everything that touches K×D numbers: momentum, norms, Gram matrix, combination.

A *stacked* pytree holds the K tasks on the leading axis of every leaf. Arithmetic
is in float32, or float64 where the gradients are; only what is stored keeps the
storage's dtype.
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
    lambda p: jnp.zeros((num_tasks, *p.shape), p.dtype if dtype is None else dtype),
    params,
  )


def decay(momentum: Any, grads: Any, gamma: jax.typing.ArrayLike) -> Any:
  """``γ m + (1 - γ) g`` (Eq. 13), stored in the momentum's dtype."""

  def leaf(m, g):
    wide = _wide(g)
    before = m.astype(wide.dtype)
    change = (1 - jnp.asarray(gamma, wide.dtype)) * (wide - before)
    return (before + change).astype(m.dtype)

  return jax.tree.map(leaf, momentum, grads)


def measure(grads: Any, momentum: Any, dtype: Any) -> GradientStats:
  """Norms and cosines of the signals m and the noises ``n = g - m`` (Eq. 16).

  Args:
    grads: Stacked pytree with at least one array.
    momentum: Stacked pytree like it.
    dtype: Of the result.

  Returns:
    What Eq. 17 needs to know of the K tasks.
  """
  signal = [_rows(m) for m in jax.tree.leaves(momentum)]
  noise = [_rows(g) - m for g, m in zip(jax.tree.leaves(grads), signal, strict=True)]
  # Scaled before it is squared: a task's gradients may be of any size.
  signal_scale, noise_scale = _largest(signal), _largest(noise)
  squared_norm = _total(
    jnp.sum(jnp.square(x / signal_scale[:, None]), 1) for x in signal
  )
  gram = _total(_gram(x / noise_scale[:, None]) for x in noise)

  scaled_norm = jnp.sqrt(jnp.diagonal(gram))
  noisy = scaled_norm > 0
  divisor = jnp.where(noisy, scaled_norm, 1.0)
  cosine = jnp.clip(gram / divisor[:, None] / divisor[None, :], -1.0, 1.0)
  cosine = jnp.where(
    jnp.eye(len(divisor), dtype=bool), noisy.astype(gram.dtype), cosine
  )
  stats = GradientStats(
    gradient_norm=signal_scale * jnp.sqrt(squared_norm),
    noise_norm=noise_scale * scaled_norm,
    noise_cosine=cosine,
  )
  return jax.tree.map(lambda x: x.astype(dtype), stats)


def combine(weights: jax.Array, grads: Any, like: Any) -> Any:
  """``Σ_k w_k g_k`` in the dtypes of ``like``, a pytree with the same structure."""

  def leaf(g, reference):
    wide = _wide(g)
    combined = jnp.tensordot(weights.astype(wide.dtype), wide, 1, precision="highest")
    return combined.astype(reference.dtype)

  return jax.tree.map(leaf, grads, like)


def one_task(stacked: Any) -> Any:
  """What one task's part of a stacked pytree looks like."""
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), stacked)


def k_dtype(params: Any) -> Any:
  """Dtype of K-sized numbers: float32 at least, whatever the parameters are."""
  wide = any(jnp.result_type(p) == jnp.float64 for p in jax.tree.leaves(params))
  return jnp.float64 if wide else jnp.float32


def _wide(x: jax.Array) -> jax.Array:
  return x if x.dtype == jnp.float64 else x.astype(jnp.float32)


def _rows(x: jax.Array) -> jax.Array:
  return _wide(x).reshape(x.shape[0], -1)


def _gram(rows: jax.Array) -> jax.Array:
  return jnp.matmul(rows, rows.T, precision="highest")


def _total(terms: Iterable[jax.Array]) -> jax.Array:
  return functools.reduce(jnp.add, terms)


def _largest(rows: list[jax.Array]) -> jax.Array:
  """The largest magnitude in each task's numbers; 1 where all are zero."""
  largest = jnp.stack([jnp.max(jnp.abs(x), axis=1, initial=0.0) for x in rows])
  largest = jnp.max(largest, axis=0)
  return jnp.where(largest > 0, largest, 1.0)
