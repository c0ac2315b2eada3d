"""Max-pooling that returns where the maxima were, and unpooling."""

import jax
import jax.numpy as jnp


def max_pool(features: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Computes the maxima of 2x2 windows, and a mask of where they were.

  A mask in place of indices: neither this, nor :func:`max_unpool`, nor their
  derivatives gather or scatter.

  Args:
    features: [N, H, W, C], H and W even.

  Returns:
    The maxima [N, H/2, W/2, C], and a mask [N, H, W, C] that is True at one pixel of
    each window: at the first of equal ones, by rows. Gradients go there alone.
  """
  n, h, w, c = features.shape
  by_window = features.reshape(n, h // 2, 2, w // 2, 2, c).swapaxes(2, 3)
  first = by_window.reshape(n, h // 2, w // 2, 4, c).argmax(3)
  mask = jax.nn.one_hot(first, 4, dtype=bool, axis=3)
  mask = mask.reshape(n, h // 2, w // 2, 2, 2, c).swapaxes(2, 3)
  windows = features.reshape(n, h // 2, 2, w // 2, 2, c)
  return jnp.where(mask, windows, 0).sum((2, 4)), mask.reshape(n, h, w, c)


def max_unpool(features: jax.Array, mask: jax.Array) -> jax.Array:
  """Puts [N, H/2, W/2, C] where ``mask`` [N, H, W, C] is True, and 0 elsewhere."""
  return jnp.where(mask, features.repeat(2, 1).repeat(2, 2), 0)
