"""MGDA, the multiple-gradient descent algorithm."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from maxgnr_jax._linalg._gramian import cosines, inverse_norms, only, unit_largest
from maxgnr_jax._linalg._quadratic import minimise_above
from maxgnr_jax.aggregators._gramian import gramian_rule


def mgda(
  *, num_tasks: int | None = None, shared: Any = None
) -> optax.GradientTransformationExtraArgs:
  """The shortest vector in the convex hull of the tasks' gradients.

  Where it is not zero it descends on every task, on each by the same first-order
  amount; where it is zero no direction does. The smallest gradients weigh most.

  Args:
    num_tasks: As in :func:`gramian_method`.
    shared: Where inner products are measured, likewise.

  Returns:
    An :class:`optax.GradientTransformationExtraArgs` with :class:`BaselineState`.

  Example:
    >>> import jax.numpy as jnp
    >>> from maxgnr_jax.aggregators import mgda_weights
    >>> weights = mgda_weights(jnp.array([[4.0, 0.0], [0.0, 1.0]]))
    >>> [f"{weight:.2f}" for weight in weights]
    ['0.20', '0.80']

  References:
    Désidéri, Multiple-gradient descent algorithm (MGDA) for multiobjective
    optimization, Comptes Rendus Mathématique 2012. Sener and Koltun, Multi-Task
    Learning as Multi-Objective Optimization, NeurIPS 2018, Eq. 3.
  """
  return gramian_rule(mgda_weights, num_tasks=num_tasks, shared=shared)


def mgda_weights(gramian: jax.Array, present: jax.Array | bool = True) -> jax.Array:
  """The weights of :func:`mgda` for inner products [K, K].

  At the optimum the product of the weighted sum with every gradient is at least its
  own square, ``G w ≥ wᵀ G w``, with equality where ``w_k > 0``. Divided by that square,
  these are the conditions of ``min ½ xᵀ G x - Σ x`` over ``x ≥ 0``, which is solved in
  units of the gradients' norms.

  Args:
    gramian: [K, K], ``⟨g_i, g_j⟩``.
    present: [K], bool: the tasks to combine; the weights of others are 0.

  Returns:
    [K], non-negative, of sum 1. A task without gradient is the shortest vector itself,
    zero: all weight is on such tasks, and the update is zero.

  """
  present, gramian = only(present, gramian)
  inverse = inverse_norms(gramian)
  unit = unit_largest(inverse)
  v = minimise_above(cosines(gramian), jnp.zeros_like(unit), unit)
  weights = v * unit
  zero = present & (inverse == 0)
  weights = jnp.where(jnp.any(zero), zero.astype(weights.dtype), weights)
  return weights / jnp.sum(weights)
