"""Aligned-MTL, independent component alignment."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from maxgnr_jax._linalg._active import among, equal_shares
from maxgnr_jax._linalg._gramian import only
from maxgnr_jax._linalg._matrix import matvec
from maxgnr_jax.aggregators._gramian import gramian_rule


def aligned_mtl(
  *, num_tasks: int | None = None, shared: Any = None
) -> optax.GradientTransformationExtraArgs:
  """The mean of the gradients after their principal components are made equally long.

  The matrix of gradients is replaced by the nearest one whose non-zero singular values
  are all the smallest of them: conflict and dominance both show in their spread.

  Args:
    num_tasks: As in :func:`gramian_method`.
    shared: Where inner products are measured, likewise.

  Returns:
    An :class:`optax.GradientTransformationExtraArgs` with :class:`BaselineState`.

  Example:
    >>> import jax.numpy as jnp
    >>> from maxgnr_jax.aggregators import aligned_mtl_weights
    >>> weights = aligned_mtl_weights(jnp.array([[4.0, 0.0], [0.0, 1.0]]))
    >>> [f"{weight:.2f}" for weight in weights]
    ['0.25', '0.50']

  References:
    Senushkin et al., Independent Component Alignment for Multi-Task Learning, CVPR
    2023, Algorithm 1; with the smallest singular value, as in the paper.
  """
  return gramian_rule(aligned_mtl_weights, num_tasks=num_tasks, shared=shared)


def aligned_mtl_weights(
  gramian: jax.Array, present: jax.Array | bool = True
) -> jax.Array:
  """The weights of :func:`aligned_mtl` for inner products [K, K].

  Args:
    gramian: [K, K], ``⟨g_i, g_j⟩``.
    present: [K], bool: the tasks to combine; the weights of others are 0.

  Returns:
    [K], ``B 1/K`` with ``B = σ_min G^(-1/2)`` on the range of G; all 1/K where every
    gradient is zero. K is the number of tasks that are present.
  """
  present, gramian = only(present, gramian)
  equal = equal_shares(present, gramian.dtype)
  scale = jnp.max(jnp.abs(gramian))
  scaled = gramian / jnp.where(scale > 0, scale, 1.0)
  eigenvalues, eigenvectors = jnp.linalg.eigh(scaled)
  number = jnp.sum(present.astype(gramian.dtype))
  rounding = number * float(jnp.finfo(gramian.dtype).eps) * jnp.max(eigenvalues)
  in_range = eigenvalues > rounding
  smallest = jnp.min(jnp.where(in_range, eigenvalues, jnp.inf))
  shrink = jnp.where(
    in_range, jnp.sqrt(smallest / jnp.where(in_range, eigenvalues, 1.0)), 0.0
  )
  weights = matvec(eigenvectors, shrink * matvec(eigenvectors.T, equal))
  return among(present, jnp.where(scale > 0, weights, equal))
