"""Aligned-MTL, independent component alignment."""

import jax
import jax.numpy as jnp
import optax

from maxgnr_jax._linalg import matvec, only_active, uniform_weights, zero_inactive
from maxgnr_jax._stacked import Labels
from maxgnr_jax.aggregators._base import Shared
from maxgnr_jax.aggregators._gramian import gramian_rule


def aligned_mtl(
  *, num_tasks: int | None = None, shared: Shared = None, groups: Labels = None
) -> optax.GradientTransformationExtraArgs:
  """Averages the gradients after making their principal components equally long.

  The matrix of gradients is replaced by the nearest one in which all non-zero singular
  values equal the smallest of them. Conflicts between tasks and the dominance of one
  both show in the spread of the singular values, which this removes.

  Args:
    num_tasks: K, at least 1. By default it is taken from the first gradients, which
      changes the shapes of the state at the first step.
    shared: Selects the trunk, where gradients are measured: a pytree of bools like the
      parameters (or a prefix of it), or a function from the parameters to one. Default:
      all parameters.
    groups: Parameters that get task weights of their own: "layer", "parameter", a
      pytree of labels like the parameters or a prefix of it, or a function from the
      parameters to one. Default: the same weights for all.

  Returns:
    An :class:`optax.GradientTransformationExtraArgs` with :class:`AggregatorState`.

  Raises:
    ValueError: for ``num_tasks`` < 1; at the trace of ``update``, for gradients that
      are not stacked or of another number of tasks.
    TypeError: for integer or complex parameters or gradients.

  Example:
    >>> import jax.numpy as jnp
    >>> from maxgnr_jax.aggregators import aligned_mtl_weights
    >>> weights = aligned_mtl_weights(jnp.array([[4.0, 0.0], [0.0, 1.0]]))
    >>> [f"{weight:.2f}" for weight in weights]
    ['0.25', '0.50']

  References:
    Senushkin et al., Independent Component Alignment for Multi-Task Learning, CVPR
    2023, Algorithm 1, scaled by the smallest singular value as in the paper.
  """
  return gramian_rule(
    aligned_mtl_weights, num_tasks=num_tasks, shared=shared, groups=groups
  )


def aligned_mtl_weights(
  gramian: jax.Array, active: jax.Array | bool = True
) -> jax.Array:
  """Returns the weights of :func:`aligned_mtl` for a Gramian.

  Args:
    gramian: [K, K], ``⟨g_i, g_j⟩``.
    active: [K], bool: the tasks to combine; the weights of others are 0.

  Returns:
    [K], ``B 1/K`` with ``B = σ_min G^(-1/2)`` on the range of G, where K is the number
    of active tasks. If every gradient is zero, each active task has 1/K.
  """
  active, gramian = only_active(active, gramian)
  equal = uniform_weights(active, gramian.dtype)
  scale = jnp.max(jnp.abs(gramian))
  scaled = gramian / jnp.where(scale > 0, scale, 1.0)
  eigenvalues, eigenvectors = jnp.linalg.eigh(scaled)
  number = jnp.sum(active.astype(gramian.dtype))
  rounding = number * float(jnp.finfo(gramian.dtype).eps) * jnp.max(eigenvalues)
  in_range = eigenvalues > rounding
  smallest = jnp.min(jnp.where(in_range, eigenvalues, jnp.inf))
  shrink = jnp.where(
    in_range, jnp.sqrt(smallest / jnp.where(in_range, eigenvalues, 1.0)), 0.0
  )
  weights = matvec(eigenvectors, shrink * matvec(eigenvectors.T, equal))
  return zero_inactive(active, jnp.where(scale > 0, weights, equal))
