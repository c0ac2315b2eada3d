"""Products with [K, K] matrices, in full precision on accelerators too."""

import jax
import jax.numpy as jnp


def quadratic_form(matrix: jax.Array, vector: jax.Array) -> jax.Array:
  """Returns the quadratic form ``vᵀ A v``, [], for A [K, K] and v [K]."""
  return jnp.vdot(vector, matvec(matrix, vector), precision="highest")


def matvec(matrix: jax.Array, vector: jax.Array) -> jax.Array:
  """Returns the product ``A v``, [K], for A [K, K] and v [K]."""
  return jnp.matmul(matrix, vector, precision="highest")
