"""The line search of Newton's method on convex functions of positive numbers."""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def search_line(
  gradient: Callable[[jax.Array], jax.Array],
  point: jax.Array,
  relative: jax.Array,
  longest: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """Goes from ``point`` along ``point * relative`` to where the function is smallest.

  A convex function is smallest where its slope is nearest to 0, which unlike the
  function itself can be told to the last digit. Tries twelve halvings of a length.

  Args:
    gradient: Of the function, [K] to [K].
    point: [K], positive.
    relative: [K], the step in units of the point.
    longest: The greatest length, in units of the step, at which all stay positive.

  Returns:
    The new point [K], and the length.
  """
  lengths = longest * 0.5 ** jnp.arange(12, dtype=point.dtype)
  tried = jax.vmap(lambda length: point * (1.0 + length * relative))(lengths)
  slopes = jax.vmap(lambda x: jnp.vdot(gradient(x), point * relative))(tried)
  chosen = jnp.nanargmin(jnp.abs(slopes))
  return tried[chosen], lengths[chosen]
