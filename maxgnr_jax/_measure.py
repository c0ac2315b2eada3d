"""MaxGNR's measurements: norms of gradients, and norms and cosines of noises."""

from typing import Any

import jax
import jax.numpy as jnp

from maxgnr_jax import _stacked
from maxgnr_jax._gnr import GradientStats
from maxgnr_jax._linalg._active import along
from maxgnr_jax._linalg._root import square_root


def measure(
  grads: Any, momentum: Any, gamma: jax.Array, mask: jax.Array, dtype: Any
) -> tuple[GradientStats, jax.Array]:
  """Measures each task's expected gradient m and its noise ``n = g - m`` (Eq. 16).

  The expected gradient is the momentum ``γ m + (1 - γ) g`` (Eq. 13) that the step is
  about to write. It is measured first, so that tasks with gradients that are not finite
  can be excluded before they enter the momentum.

  Args:
    grads: Stacked pytree with at least one array.
    momentum: Stacked pytree like it, from the step before.
    gamma: [K], the decay rate of each task's momentum.
    mask: [K], bool: tasks whose statistics matter.
    dtype: Dtype of the arithmetic and the result.

  Returns:
    The statistics of the K task gradients that Eq. 17 depends on, 0 for tasks with
    gradients that are not finite; and which tasks' gradients are finite, [K].
  """
  pairs = list(zip(jax.tree.leaves(grads), jax.tree.leaves(momentum), strict=True))
  gamma = gamma.astype(dtype)

  def sums(reduce, pairs, gamma, mask):
    # Numbers are scaled before they are squared, so that squares do not vanish.
    arrays = [x for pair in pairs for x in pair]
    inverse, scale = _stacked.task_scale(
      _stacked.magnitude(reduce, arrays, dtype, mask)
    )

    def change(k, g, m):  # g - γ m - (1 - γ) g = γ (g - m)
      difference = g.astype(dtype) - m.astype(dtype)
      return difference * along(inverse[k], difference)

    def expected(k, g, m):  # m + (1 - γ) (g - m)
      before = m.astype(dtype)
      before *= along(inverse[k], before)
      return before + along(1 - gamma[k], before) * change(k, g, m)

    def products(leaves):
      return _stacked.sums_of_products(leaves, change, squared=expected)

    return *reduce.sum(products, pairs), scale

  gramian, squared_norm, scale = _stacked.over_parameters(sums, pairs, gamma, mask)
  squared_change = jnp.diagonal(gramian)
  finite = jnp.isfinite(squared_change) & jnp.isfinite(squared_norm)
  gradient_norm = jnp.where(finite, scale * square_root(squared_norm), 0.0)
  change_norm = square_root(squared_change)
  noise_norm = gamma * scale * change_norm
  # A difference that rounding alone explains is no noise. At γ = 0, m is g up to
  # rounding. Otherwise a step moves m by 1 - γ of the difference; if that is less than
  # the rounding error of m, m stays where it is.
  rounding = _coarsest(momentum) / (1 - gamma) * gradient_norm
  noisy = finite & (noise_norm > rounding) & (gamma > 0)
  divisor = jnp.where(noisy, change_norm, 1.0)
  cosine = jnp.clip(gramian / divisor[:, None] / divisor[None, :], -1.0, 1.0)
  cosine = jnp.where(jnp.eye(noisy.size, dtype=bool), jnp.ones((), dtype), cosine)
  stats = GradientStats(
    gradient_norm=gradient_norm,
    noise_norm=jnp.where(noisy, noise_norm, 0.0),
    noise_cosine=jnp.where(noisy[:, None] & noisy[None, :], cosine, 0.0),
  )
  return stats, finite


def _coarsest(tree: Any) -> float:
  """Returns the largest relative rounding error of the tree's dtypes."""
  leaves = [x for x in jax.tree.leaves(tree) if x.size]
  return max((float(jnp.finfo(x.dtype).eps) for x in leaves), default=0.0)
