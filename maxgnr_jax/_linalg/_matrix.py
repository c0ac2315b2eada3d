"""Products of K×K matrices in full precision, on accelerators too."""

import jax
import jax.numpy as jnp


def quadratic_form(matrix: jax.Array, vector: jax.Array) -> jax.Array:
  """Returns ``vᵀ A v``, []."""
  return jnp.vdot(vector, matvec(matrix, vector), precision="highest")


def matvec(matrix: jax.Array, vector: jax.Array) -> jax.Array:
  """Returns ``A v``, [K]."""
  return jnp.matmul(matrix, vector, precision="highest")
