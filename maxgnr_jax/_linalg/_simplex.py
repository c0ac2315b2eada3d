"""Projection on the simplex, ``w ≥ 0`` and ``Σ w = 1``."""

import jax
import jax.numpy as jnp


def project_on_simplex(vector: jax.Array) -> jax.Array:
  """The nearest point of the simplex to ``vector`` [K], of whatever size it is.

  `optax.projections.projection_simplex` needs entries that 1 is not lost beside, and
  JAX's default promotion of dtypes.

  References:
    Duchi et al., Efficient Projections onto the l1-Ball for Learning in High
    Dimensions, ICML 2008, Figure 1.
  """
  shifted = vector - jnp.max(vector)
  descending = jnp.sort(shifted, descending=True)
  sizes = jnp.arange(1, vector.size + 1, dtype=vector.dtype)
  thresholds = (jnp.cumsum(descending) - 1.0) / sizes
  support = jnp.sum(descending > thresholds)
  weights = jnp.maximum(shifted - thresholds[support - 1], 0.0)
  return weights / jnp.sum(weights)
