"""What MaxGNR measures: the norms of signals, and the norms and cosines of noises."""

from typing import Any

import jax
import jax.numpy as jnp

from maxgnr_jax._gnr import GradientStats
from maxgnr_jax._stacked._norms import task_scales
from maxgnr_jax._stacked._sharding import over_parameters
from maxgnr_jax._stacked._sums import sums_of_products
from maxgnr_jax._stacked._tree import along


def measure(
  grads: Any, momentum: Any, gamma: jax.Array, dtype: Any
) -> tuple[GradientStats, jax.Array]:
  """Norms and cosines of the signals m and the noises ``n = g - m`` (Eq. 16).

  Of the momentum that :func:`decay` will make, ``γ m + (1 - γ) g``, before it is made:
  a task's numbers must be known to be finite before they are let into it.

  Args:
    grads: Stacked pytree with at least one array.
    momentum: Stacked pytree like it, of the step before.
    gamma: [K], of each task's momentum.
    dtype: Of the arithmetic and the result.

  Returns:
    What Eq. 17 needs to know of the K tasks, and which tasks' gradients are finite,
    [K]. What was measured of the others is 0.
  """
  pairs = list(zip(jax.tree.leaves(grads), jax.tree.leaves(momentum), strict=True))
  gamma = gamma.astype(dtype)

  def sums(reduce, pairs, gamma):
    # Scaled before it is squared: a task's gradients may be of any size.
    inverse, scale = task_scales(reduce, pairs, dtype)

    def change(k, g, m):  # g - γ m - (1 - γ) g = γ (g - m)
      difference = g.astype(dtype) - m.astype(dtype)
      return difference * along(inverse[k], difference)

    def signal(k, g, m):
      before = m.astype(dtype)
      before *= along(inverse[k], before)
      return before + along(1 - gamma[k], before) * change(k, g, m)

    def products(leaves):
      return sums_of_products(leaves, change, squared=signal)

    return *reduce.sum(products, pairs), scale

  gram, squared_norm, scale = over_parameters(sums, pairs, gamma)
  squared_change = jnp.diagonal(gram)
  finite = jnp.isfinite(squared_change) & jnp.isfinite(squared_norm)
  gradient_norm = jnp.where(finite, scale * jnp.sqrt(squared_norm), 0.0)
  change_norm = jnp.sqrt(squared_change)
  noise_norm = gamma * scale * change_norm
  # At γ = 0, m is g, and what rounding leaves of their difference is no noise. Nor is
  # what the rounding of a momentum leaves that moves by 1 - γ of the difference only.
  rounding = _coarsest(momentum) / (1 - gamma) * gradient_norm
  noisy = finite & (noise_norm > rounding) & (gamma > 0)
  divisor = jnp.where(noisy, change_norm, 1.0)
  cosine = jnp.clip(gram / divisor[:, None] / divisor[None, :], -1.0, 1.0)
  cosine = jnp.where(jnp.eye(noisy.size, dtype=bool), jnp.ones((), dtype), cosine)
  stats = GradientStats(
    gradient_norm=gradient_norm,
    noise_norm=jnp.where(noisy, noise_norm, 0.0),
    noise_cosine=jnp.where(noisy[:, None] & noisy[None, :], cosine, 0.0),
  )
  return stats, finite


def _coarsest(tree: Any) -> float:
  """The largest relative rounding error of the tree's dtypes."""
  return max(float(jnp.finfo(x.dtype).eps) for x in jax.tree.leaves(tree))
