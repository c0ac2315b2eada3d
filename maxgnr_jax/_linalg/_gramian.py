"""Algebra of the Gramian ``⟨g_i, g_j⟩`` [K, K] of the task gradients."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from maxgnr_jax._linalg._active import num_active, zero_inactive
from maxgnr_jax._linalg._matrix import matvec
from maxgnr_jax._linalg._root import square_root


def only_active(
  active: jax.Array | bool, gramian: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Returns ``active`` as an array [K], and the Gramian with 0 for inactive tasks."""
  active = jnp.broadcast_to(jnp.asarray(active), gramian.shape[:1])
  return active, zero_inactive(active, gramian, axes=2)


def norms(gramian: jax.Array) -> jax.Array:
  """Returns the norms of the gradients, ``‖g_k‖``, [K]."""
  return square_root(jnp.diagonal(gramian))


def inverse_norms(gramian: jax.Array) -> jax.Array:
  """Returns the inverse norms ``1 / ‖g_k‖``, [K]; 0 for a task without gradient."""
  squared = jnp.diagonal(gramian)
  positive = squared > 0
  return jnp.where(positive, 1.0 / jnp.sqrt(jnp.where(positive, squared, 1.0)), 0.0)


def cosines(gramian: jax.Array) -> jax.Array:
  """Returns the cosines of the gradients, [K, K]; 0 for a task without gradient."""
  inverse = inverse_norms(gramian)
  return gramian * inverse[:, None] * inverse[None, :]


def unit_products(gramian: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns norms [K] and products [K, K] of the gradients divided by the largest norm.

  The products are computed from the cosines, because the squares of the norms may be
  outside the range of float32.
  """
  norm = unit_largest(norms(gramian))
  return norm, norm[:, None] * cosines(gramian) * norm[None, :]


def unit_largest(values: jax.Array) -> jax.Array:
  """Divides non-negative ``values`` by the largest, unless all are 0.

  This is a choice of units: derivatives take the largest value for a constant.
  """
  largest = jax.lax.stop_gradient(jnp.max(values))
  return values / jnp.where(largest > 0, largest, 1.0)


def equal_cosines(
  cosine: jax.Array, active: jax.Array, ratios: jax.Array | None = None
) -> jax.Array:
  """Returns the combination of unit gradients with the same cosine to each of them.

  Args:
    cosine: [K, K], C, the cosines of the gradients; rows and columns of 0 for tasks
      that are inactive or have no gradient.
    active: [K], bool.
    ratios: [K], p, the ratios of the cosines; None for equal ones.

  Returns:
    [K], the coefficients ``C⁺ p``; 0 for tasks that are inactive or have no gradient,
    and for all tasks if every combination of their gradients has cosines of sum 0.
  """
  wanted = (jnp.diagonal(cosine) > 0).astype(cosine.dtype)
  if ratios is not None:
    wanted *= ratios
  number = num_active(active, cosine.dtype)
  # JAX's default tolerance is five times as large: it takes nearly parallel gradients
  # for parallel ones.
  rtol = 2.0 * float(jnp.finfo(cosine.dtype).eps) * number
  combination = matvec(_pseudo_inverse(cosine, rtol), wanted)
  # Where opposite gradients leave no such combination, only rounding errors are left.
  exists = jnp.sum(jnp.abs(combination)) > number * rounding(cosine.dtype)
  return jnp.where(exists, combination, 0.0)


@jax.custom_jvp
def _pseudo_inverse(matrix: jax.Array, rtol: jax.Array) -> jax.Array:
  """Returns the pseudo-inverse of a symmetric matrix, with a traced tolerance.

  The derivative of :func:`jax.numpy.linalg.pinv` takes no traced one.
  """
  return jnp.linalg.pinv(matrix, rtol=rtol, hermitian=True)


@_pseudo_inverse.defjvp
def _pseudo_inverse_jvp(primals, tangents):
  """Differentiates the pseudo-inverse of a symmetric matrix of constant rank.

  Golub and Pereyra, The Differentiation of Pseudo-Inverses, SIAM Journal on Numerical
  Analysis 1973, Eq. 4.12. It has no differences of eigenvalues, so that these may be
  equal.
  """
  product = functools.partial(jnp.matmul, precision="highest")

  (matrix, _), (change, _) = primals, tangents
  change = 0.5 * (change + change.T)
  inverse = _pseudo_inverse(*primals)
  null = jnp.eye(len(matrix), dtype=matrix.dtype) - product(matrix, inverse)
  rotation = product(product(inverse, inverse), product(change, null))
  within = product(product(inverse, change), inverse)
  return inverse, rotation + rotation.T - within


def rounding(dtype: Any) -> float:
  """Returns the relative rounding error of a Gramian, at which solvers stop."""
  return 8 * float(jnp.finfo(dtype).eps)
