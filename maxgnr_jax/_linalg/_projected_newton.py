"""Convex quadratic programmes with lower bounds, solved in a few steps."""

import functools

import jax
import jax.numpy as jnp

from maxgnr_jax._linalg._active_set import change_of_free, least_ridge
from maxgnr_jax._linalg._gramian import rounding
from maxgnr_jax._linalg._matrix import matvec

# The last steps have the smallest ridge: they refine, rather than find, the minimum.
_REFINING = 4


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def minimise_above_by_newton(
  matrix: jax.Array, bound: jax.Array, num_steps: int
) -> jax.Array:
  """Minimises ``vᵀ A v`` over ``v ≥ bound`` by projected Newton steps.

  A step solves for the minimum over the free entries of v, and projects it on the
  bounds. Free are entries above their bound, and those at it whose derivative before
  the projection was negative: what has just met its bound stays there for a step. A
  multiple of the identity, the ridge, is added to A in the measure of a step's length.
  It falls from 1 to the size of rounding, so that few entries change sides at a time.

  Args:
    matrix: [K, K], A, positive semidefinite, with 1 (or 0) on the diagonal.
    bound: [K], the least values of v, not negative.
    num_steps: Number of steps, at least 1.

  Returns:
    [K], the best v of all steps. Its derivatives are those for which the same v_k stay
    at their bounds.

  References:
    Bertsekas, Projected Newton Methods for Optimization Problems with Simple
    Constraints, SIAM Journal on Control and Optimization 1982. Hintermüller, Ito and
    Kunisch, The Primal-Dual Active Set Strategy as a Semismooth Newton Method, SIAM
    Journal on Optimization 2003. The ridge is that of Levenberg and Marquardt.
  """
  precision = len(bound) * rounding(bound.dtype)
  finest = least_ridge(bound)
  falling = max(num_steps - _REFINING, 1)

  def keep_best(v, best, least):
    projected = jnp.maximum(v, bound)
    # One product of A with both.
    slope, slope_projected = jnp.sum(
      matrix[None] * jnp.stack([v, projected])[:, None], -1
    )
    value = jnp.vdot(projected, slope_projected, precision="highest")
    # Of values that are equal up to rounding the last is the most exact.
    better = value <= (1.0 + precision) * least
    best = jnp.where(better, projected, best)
    return slope, projected, slope_projected, best, jnp.where(better, value, least)

  def step(i, carry):
    v, free, best, least = carry
    slope, projected, slope_projected, best, least = keep_best(v, best, least)
    free = jnp.where(free, v > bound, slope < 0)
    ridge = finest ** jnp.minimum(i / falling, 1.0).astype(bound.dtype)
    both = free[:, None] & free[None, :]
    system = jnp.where(both, matrix, 0.0) + jnp.diag(jnp.where(free, ridge, 1.0))
    factor = jnp.linalg.cholesky(system, symmetrize_input=False)
    # A ridge of the size of rounding would enlarge what is rounding.
    rounded = rounding(bound.dtype) * matvec(jnp.abs(matrix), projected)
    inexact = jnp.any(free & (jnp.abs(slope_projected) > rounded))
    downhill = jnp.where(free & inexact, -slope_projected, 0.0)
    change = jax.scipy.linalg.cho_solve((factor, True), downhill)
    # A matrix that is not semidefinite has no factor once the ridge is too small.
    change = jnp.where(jnp.isfinite(change), change, 0.0)
    return projected + change, free, best, least

  infinite = jnp.full((), jnp.inf, bound.dtype)
  start = (bound, jnp.zeros(bound.shape, bool), bound, infinite)
  v, _, best, least = jax.lax.fori_loop(0, num_steps, step, start)
  *_, best, _ = keep_best(v, best, least)
  return best


@minimise_above_by_newton.defjvp
def _minimise_above_by_newton_jvp(
  num_steps: int,
  primals: tuple[jax.Array, jax.Array],
  tangents: tuple[jax.Array, jax.Array],
) -> tuple[jax.Array, jax.Array]:
  """Differentiates ``A v = 0`` among the entries above their bounds."""
  (matrix, bound), (matrix_dot, bound_dot) = primals, tangents
  matrix_dot = 0.5 * (matrix_dot + matrix_dot.T)
  v = minimise_above_by_newton(matrix, bound, num_steps)
  change = -matvec(matrix_dot, v) - matvec(matrix, bound_dot)
  return v, bound_dot + change_of_free(matrix, v > bound, change)
