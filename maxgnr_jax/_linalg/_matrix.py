"""Products of K×K matrices in full precision."""

import jax
import jax.numpy as jnp


def quadratic_form(matrix: jax.Array, vector: jax.Array) -> jax.Array:
  """``vᵀ A v`` in full precision, on accelerators too."""
  return jnp.vdot(vector, matvec(matrix, vector), precision="highest")


def matvec(matrix: jax.Array, vector: jax.Array) -> jax.Array:
  """``A v`` in full precision, on accelerators too."""
  return jnp.matmul(matrix, vector, precision="highest")
