"""Projection on the simplex, where ``w ≥ 0`` and ``Σ w = 1``."""

import jax
import jax.numpy as jnp


def project_on_simplex(vector: jax.Array) -> jax.Array:
  """Returns the point of the simplex nearest to ``vector`` [K].

  Entries may be of any size, also -inf if at least one is finite. In contrast,
  :func:`optax.projections.projection_simplex` loses the sum of 1 to rounding beside
  large entries, and fails under strict dtype promotion.

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
