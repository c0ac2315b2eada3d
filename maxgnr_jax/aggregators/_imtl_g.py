"""IMTL-G, impartial multi-task learning by gradients."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from maxgnr_jax._linalg._gramian import (
  cosines,
  equal_cosines,
  inverse_norms,
  only,
  unit_largest,
)
from maxgnr_jax.aggregators._gramian import gramian_rule


def imtl_g(
  *, num_tasks: int | None = None, shared: Any = None
) -> optax.GradientTransformationExtraArgs:
  """The combination with the same projection on every task's gradient.

  Each task's direction counts alike, whatever the size of its gradient. Weights may be
  negative.

  Args:
    num_tasks: As in :func:`gramian_method`.
    shared: Where inner products are measured, likewise.

  Returns:
    An :class:`optax.GradientTransformationExtraArgs` with :class:`BaselineState`.

  Example:
    >>> import jax.numpy as jnp
    >>> from maxgnr_jax.aggregators import imtl_g_weights
    >>> weights = imtl_g_weights(jnp.array([[4.0, 0.0], [0.0, 1.0]]))
    >>> [f"{weight:.2f}" for weight in weights]
    ['0.33', '0.67']

  References:
    Liu et al., Towards Impartial Multi-task Learning, ICLR 2021, Section 3.1.
  """
  return gramian_rule(imtl_g_weights, num_tasks=num_tasks, shared=shared)


def imtl_g_weights(gramian: jax.Array, present: jax.Array | bool = True) -> jax.Array:
  """The weights of :func:`imtl_g` for inner products [K, K].

  With the cosines C, ``w_k ∝ (C⁺ 1)_k / ‖g_k‖``. The pseudo-inverse generalises the
  paper's inverse to gradients that depend on each other.

  Args:
    gramian: [K, K], ``⟨g_i, g_j⟩``.
    present: [K], bool: the tasks to combine; the weights of others are 0.

  Returns:
    [K], of sum 1, or all 0 where there is no such combination.

  """
  present, gramian = only(present, gramian)
  unit = unit_largest(inverse_norms(gramian))
  weights = unit * equal_cosines(cosines(gramian), present)
  total = jnp.sum(weights)
  solvable = jnp.abs(total) > 1e-6 * jnp.sum(jnp.abs(weights))
  return jnp.where(solvable, weights / jnp.where(solvable, total, 1.0), 0.0)
