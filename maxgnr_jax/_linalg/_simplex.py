"""Projection on the simplex, where ``w ≥ 0`` and ``Σ w = 1``."""

import jax
import jax.numpy as jnp


def project_on_simplex(vector: jax.Array) -> jax.Array:
  """Returns the point of the simplex nearest to ``vector`` [K].

  Entries may be of any size. The weight of an entry of -inf is 0; if all are -inf, the
  weights are equal. In contrast, :func:`optax.projections.projection_simplex` loses the
  sum of 1 to rounding beside large entries, and fails under strict dtype promotion.

  References:
    Duchi et al., Efficient Projections onto the l1-Ball for Learning in High
    Dimensions, ICML 2008, Figure 1.
  """
  vector = jnp.where(jnp.all(jnp.isneginf(vector)), 0.0, vector)
  # The projection does not depend on what all entries share, nor does its derivative.
  shifted = vector - jax.lax.stop_gradient(jnp.max(vector))
  descending = jnp.sort(shifted, descending=True)
  sizes = jnp.arange(1, vector.size + 1, dtype=vector.dtype)
  thresholds = (jnp.cumsum(descending) - 1.0) / sizes
  support = jnp.sum(descending > thresholds)
  weights = jax.nn.relu(shifted - thresholds[support - 1])
  return weights / jnp.sum(weights)
