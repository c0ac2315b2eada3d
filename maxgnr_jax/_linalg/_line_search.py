"""Line search for Newton's method on convex functions of positive numbers."""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def search_line(
  gradient: Callable[[jax.Array], jax.Array],
  point: jax.Array,
  relative: jax.Array,
  longest: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """Minimises a convex function along ``point * relative``, starting from ``point``.

  Tries the longest step and eleven halvings of it, and takes the one where the slope
  along the line is nearest to 0. Near the minimum the slope is more accurate than the
  function, the differences of which are lost to rounding.

  Args:
    gradient: From a point [K] to the gradient of the function, [K].
    point: [K], positive.
    relative: [K], the full step divided by ``point``.
    longest: [], the largest multiple of the full step to try; all coordinates must stay
      positive there.

  Returns:
    The new point [K], and the multiple of the full step that leads to it, [].
  """
  lengths = longest * 0.5 ** jnp.arange(12, dtype=point.dtype)
  tried = jax.vmap(lambda length: point * (1.0 + length * relative))(lengths)
  slopes = jax.vmap(lambda x: jnp.vdot(gradient(x), point * relative))(tried)
  chosen = jnp.nanargmin(jnp.abs(slopes))
  return tried[chosen], lengths[chosen]
