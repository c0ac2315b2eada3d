"""Algebra of the Gramian ``⟨g_i, g_j⟩`` of K gradients."""

from typing import Any

import jax
import jax.numpy as jnp

from maxgnr_jax._linalg._active import among
from maxgnr_jax._linalg._matrix import matvec


def only(present: jax.Array | bool, gramian: jax.Array) -> tuple[jax.Array, jax.Array]:
  """The tasks that are ``present`` [K], and the products with zeros for the others."""
  present = jnp.broadcast_to(jnp.asarray(present), gramian.shape[:1])
  return present, among(present, gramian)


def norms(gramian: jax.Array) -> jax.Array:
  """``‖g_k‖``."""
  return jnp.sqrt(jnp.diagonal(gramian))


def inverse_norms(gramian: jax.Array) -> jax.Array:
  """``1 / ‖g_k‖``, 0 for a task without gradient."""
  squared = jnp.diagonal(gramian)
  present = squared > 0
  return jnp.where(present, 1.0 / jnp.sqrt(jnp.where(present, squared, 1.0)), 0.0)


def cosines(gramian: jax.Array) -> jax.Array:
  """The cosines between the gradients; 0 for a task without gradient."""
  inverse = inverse_norms(gramian)
  return gramian * inverse[:, None] * inverse[None, :]


def unit_products(gramian: jax.Array) -> tuple[jax.Array, jax.Array]:
  """``‖g_k‖`` and ``⟨g_i, g_j⟩`` in units of the largest norm.

  By the cosines, because squares of norms may be out of float32's range.
  """
  norm = unit_largest(norms(gramian))
  return norm, norm[:, None] * cosines(gramian) * norm[None, :]


def unit_largest(values: jax.Array) -> jax.Array:
  """Non-negative ``values`` in units of the largest, if that is not 0."""
  largest = jnp.max(values)
  return values / jnp.where(largest > 0, largest, 1.0)


def equal_cosines(cosine: jax.Array, present: jax.Array) -> jax.Array:
  """``C⁺ 1``: combines unit vectors of cosines C to one equally near to all.

  A task without gradient, whose row is 0, gets 0; so does one that is not ``present``.
  """
  ones = (jnp.diagonal(cosine) > 0).astype(cosine.dtype)
  # JAX's own choice, for a matrix of only the tasks that are present.
  number = jnp.sum(present.astype(cosine.dtype))
  rtol = 10.0 * float(jnp.finfo(cosine.dtype).eps) * number
  return matvec(jnp.linalg.pinv(cosine, rtol=rtol, hermitian=True), ones)


def rounding(dtype: Any) -> float:
  """The relative error that ``dtype`` leaves in a Gram matrix: what solvers stop at."""
  return 8 * float(jnp.finfo(dtype).eps)
