"""Algebra of the Gramian ``⟨g_i, g_j⟩`` [K, K] of the tasks' gradients."""

from typing import Any

import jax
import jax.numpy as jnp

from maxgnr_jax._linalg._active import num_active, zero_inactive
from maxgnr_jax._linalg._matrix import matvec


def only_active(
  active: jax.Array | bool, gramian: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Returns ``active`` as [K], and the Gramian with zeros for inactive tasks."""
  active = jnp.broadcast_to(jnp.asarray(active), gramian.shape[:1])
  return active, zero_inactive(active, gramian, axes=2)


def norms(gramian: jax.Array) -> jax.Array:
  """Returns ``‖g_k‖``, [K]."""
  return jnp.sqrt(jnp.diagonal(gramian))


def inverse_norms(gramian: jax.Array) -> jax.Array:
  """Returns ``1 / ‖g_k‖``, [K]; 0 for a task without gradient."""
  squared = jnp.diagonal(gramian)
  positive = squared > 0
  return jnp.where(positive, 1.0 / jnp.sqrt(jnp.where(positive, squared, 1.0)), 0.0)


def cosines(gramian: jax.Array) -> jax.Array:
  """Returns the cosines between the gradients; 0 for a task without gradient."""
  inverse = inverse_norms(gramian)
  return gramian * inverse[:, None] * inverse[None, :]


def unit_products(gramian: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns ``‖g_k‖`` and ``⟨g_i, g_j⟩`` in units of the largest norm.

  The products are made of the cosines, because squares of norms may be out of
  float32's range.
  """
  norm = unit_largest(norms(gramian))
  return norm, norm[:, None] * cosines(gramian) * norm[None, :]


def unit_largest(values: jax.Array) -> jax.Array:
  """Divides non-negative ``values`` by the largest, if that is not 0."""
  largest = jnp.max(values)
  return values / jnp.where(largest > 0, largest, 1.0)


def equal_cosines(cosine: jax.Array, active: jax.Array) -> jax.Array:
  """Returns ``C⁺ 1``, the combination of unit vectors that is equally near to all.

  Args:
    cosine: [K, K], C, the cosines of the unit vectors; rows of zeros for tasks that
      are inactive or have no gradient, which get 0.
    active: [K], bool.
  """
  ones = (jnp.diagonal(cosine) > 0).astype(cosine.dtype)
  # The tolerance that JAX takes for a matrix of the active tasks only.
  rtol = 10.0 * float(jnp.finfo(cosine.dtype).eps) * num_active(active, cosine.dtype)
  return matvec(jnp.linalg.pinv(cosine, rtol=rtol, hermitian=True), ones)


def rounding(dtype: Any) -> float:
  """Returns the relative error of a Gramian in ``dtype``, where solvers stop."""
  return 8 * float(jnp.finfo(dtype).eps)
