"""Convex quadratic programmes with lower bounds, which several methods solve."""

import jax
import jax.numpy as jnp

from maxgnr_jax._linalg._matrix import matvec


def minimise_above(
  matrix: jax.Array,
  bound: jax.Array,
  linear: jax.Array | None = None,
  *,
  num_steps: int = 300,
) -> jax.Array:
  """Minimises ``½ vᵀ A v - bᵀ v`` over ``v ≥ bound``.

  Uses Nesterov's method with adaptive restart, starting from the bound, with a step
  size of about 1/λ_max(A). It converges fastest if all diagonal entries of A are 1:
  choose the units of v so that they are.

  Args:
    matrix: [K, K], A, positive semidefinite, with 1 (or 0) on the diagonal.
    bound: [K], the least values of v.
    linear: [K], b. Default: 0.
    num_steps: Number of steps, at least 1.

  Returns:
    [K], the minimiser v.

  References:
    O'Donoghue and Candès, Adaptive Restart for Accelerated Gradient Schemes,
    Foundations of Computational Mathematics 2015.
  """
  linear = jnp.zeros_like(bound) if linear is None else linear
  # The minimiser does not depend on the step size, nor does its derivative.
  largest = _eigenvalue_bound(jax.lax.stop_gradient(matrix))
  step_size = 1.0 / jnp.maximum(largest, 1.0)

  def step(_, carry):
    v, ahead, t = carry
    downhill = ahead - step_size * (matvec(matrix, ahead) - linear)
    v_next = jnp.where(downhill < bound, bound, downhill)
    # If the momentum points uphill, it has overshot: reset it.
    restart = jnp.vdot(ahead - v_next, v_next - v) > 0
    t_next = jnp.where(restart, 1.0, (1 + jnp.sqrt(1 + 4 * t * t)) / 2)
    speed = jnp.where(restart, 0.0, (t - 1) / t_next)
    return v_next, v_next + speed * (v_next - v), t_next

  one = jnp.ones((), bound.dtype)
  v, _, _ = jax.lax.fori_loop(0, num_steps, step, (bound, bound, one))
  return v


def _eigenvalue_bound(matrix: jax.Array) -> jax.Array:
  """Returns an upper bound of λ_max of a positive semidefinite matrix, [].

  The bound is the Schatten norm ``(Σ λ^16)^(1/16)``, computed by squaring the matrix
  repeatedly. It exceeds λ_max by a factor of at most K^(1/16). Power iteration would
  estimate λ_max from below, which could make the step too long.
  """
  bound = jnp.ones((), matrix.dtype)
  for squarings in range(4):
    norm = jnp.sqrt(jnp.sum(matrix * matrix))
    bound *= norm ** (0.5**squarings)
    matrix /= jnp.where(norm > 0, norm, 1.0)
    matrix = jnp.matmul(matrix, matrix, precision="highest")
  return bound
