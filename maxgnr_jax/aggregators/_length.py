"""The length of the update."""

import jax
import jax.numpy as jnp

from maxgnr_jax._linalg import (
  cosines,
  norms,
  quadratic_form,
  rounding,
  uniform_weights,
  zero_inactive,
)


def as_long_as_the_mean(
  weights: jax.Array, gramian: jax.Array, active: jax.Array
) -> jax.Array:
  """Scales the weights so that the update is as long as the mean of the gradients.

  Where gradients cancel, the length of a sum is only known up to the rounding of the
  Gramian: it counts as at least a thousandth (in float32) of the lengths that add up.

  Args:
    weights: [K], 0 for inactive tasks.
    gramian: [K, K], ``⟨g_i, g_j⟩``; that of inactive tasks may be anything.
    active: [K], bool.

  Returns:
    [K], as they were if the update is zero.
  """
  gramian = zero_inactive(active, gramian, axes=2)
  norm, cosine = norms(gramian), cosines(gramian)

  def length(weights: jax.Array) -> jax.Array:
    lengths = weights * norm
    unit = jax.lax.stop_gradient(jnp.max(jnp.abs(lengths)))
    lengths = lengths / jnp.where(unit > 0, unit, 1.0)
    least = rounding(lengths.dtype) * jnp.square(jnp.sum(jnp.abs(lengths)))
    squared = jnp.maximum(quadratic_form(cosine, lengths), least)
    return unit * jnp.sqrt(jnp.where(unit > 0, squared, 1.0))

  own, mean = length(weights), length(uniform_weights(active, weights.dtype))
  return weights * jnp.where(own > 0, mean / jnp.where(own > 0, own, 1.0), 1.0)
