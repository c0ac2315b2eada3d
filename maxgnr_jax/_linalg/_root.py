"""Square roots that can be differentiated at 0."""

import jax
import jax.numpy as jnp


def square_root(squared: jax.Array) -> jax.Array:
  """Returns ``√x``; both the root and its derivative are 0 where x is 0 or negative.

  The derivative of :func:`jax.numpy.sqrt` at 0 is infinite, and becomes NaN when the
  derivative of the squares, 0, is multiplied by it. A square below 0 is rounding error.

  Args:
    squared: Floating-point array, x. NaN stays NaN.
  """
  zero = squared <= 0
  return jnp.where(zero, 0.0, jnp.sqrt(jnp.where(zero, 1.0, squared)))
