"""Convex quadratic programmes with lower bounds, solved up to rounding."""

import jax
import jax.numpy as jnp

from maxgnr_jax._linalg._gramian import rounding
from maxgnr_jax._linalg._matrix import matvec


def minimise_above_exactly(
  matrix: jax.Array, bound: jax.Array, linear: jax.Array | None = None
) -> jax.Array:
  """Minimises ``½ vᵀ A v - bᵀ v`` over ``v ≥ bound``, up to rounding.

  Solves one problem or several at once, which differ in their bounds.

  Uses the active-set method of Lawson and Hanson. In contrast to
  :func:`minimise_above` it is as exact where A is nearly singular. Where several v are
  optimal it returns one of them, with nearly equal values for equal tasks. If there is
  no minimum, v is large and ``A v`` small beside it.

  Args:
    matrix: [K, K], A, positive semidefinite, with 1 (or 0) on the diagonal.
    bound: [K], or [B, K] for B problems, the least values of v.
    linear: Array like it, b. Default: 0.

  Returns:
    Array like ``bound``, the minimiser v. Its derivatives are those for which the same
    v_k stay at their bounds.

  References:
    Lawson and Hanson, Solving Least Squares Problems, 1974, Chapter 23.
  """
  linear = jnp.zeros_like(bound) if linear is None else linear

  def at_bound(bound, linear):
    right = linear - matvec(matrix, bound)
    return right, jnp.abs(linear) + matvec(jnp.abs(matrix), jnp.abs(bound))

  rows = jnp.reshape(bound, (-1, len(matrix)))
  right, terms = jax.vmap(at_bound)(rows, jnp.reshape(linear, rows.shape))
  above = _non_negative(matrix, right, jax.lax.stop_gradient(terms))
  return bound + jnp.reshape(above, bound.shape)


@jax.custom_jvp
def _non_negative(matrix: jax.Array, right: jax.Array, terms: jax.Array) -> jax.Array:
  """Minimises ``½ xᵀ A x - rᵀ x`` over ``x ≥ 0`` for each of B problems.

  Args:
    matrix: [K, K], A.
    right: [B, K], r.
    terms: [B, K], the size of the numbers that r was computed from, for its rounding.
  """
  size = len(matrix)
  precision = rounding(right.dtype)

  def step(right, terms, carry):
    x, free, refused, finished = carry
    # Go towards the minimum over the free entries until one of them reaches 0.
    aim = solve_free(matrix, right, free)
    falls = free & (aim <= 0)
    reach = jnp.where(falls, x / jnp.where(x > aim, x - aim, 1.0), 1.0)
    length = jnp.min(reach)
    blocks = falls & (reach <= length)
    arrived = ~jnp.any(falls)
    moved = jnp.where(blocks, 0.0, jnp.maximum(x + length * (aim - x), 0.0))
    moved = jnp.where(arrived, aim, moved)
    # What leaves without a step entered by rounding: it must wait for a step.
    refused = jnp.where(jnp.any(moved != x), False, refused | blocks)
    free &= ~blocks
    # At the minimum, free the entries with the largest gain.
    slope = right - matvec(matrix, moved)
    least = precision * (terms + matvec(jnp.abs(matrix), moved))
    gain = jnp.where(free | refused | (slope <= least), 0.0, slope)
    largest = jnp.max(gain)
    enters = arrived & (gain > 0) & (gain >= (1.0 - precision) * largest)
    done = arrived & (largest <= 0)
    after = (moved, free | enters, refused, done)
    return jax.tree.map(lambda a, b: jnp.where(finished, b, a), after, carry)

  def unsolved(carry):
    count, (*_, finished) = carry
    return (count < 6 * size) & ~jnp.all(finished)

  # The loop is outside of `vmap`, where `checkify` accepts it.
  def step_all(carry):
    return carry[0] + 1, jax.vmap(step)(right, terms, carry[1])

  none = jnp.zeros(right.shape, bool)
  start = (jnp.zeros_like(right), none, none, jnp.zeros(len(right), bool))
  _, (x, *_) = jax.lax.while_loop(unsolved, step_all, (jnp.zeros((), int), start))
  return x


@_non_negative.defjvp
def _non_negative_jvp(
  primals: tuple[jax.Array, ...], tangents: tuple[jax.Array, ...]
) -> tuple[jax.Array, jax.Array]:
  """Differentiates ``A x = r`` among the positive entries."""
  matrix, right, terms = primals
  matrix_dot, right_dot, _ = tangents
  matrix_dot = 0.5 * (matrix_dot + matrix_dot.T)

  def differentiate(x, right_dot):
    return change_of_free(matrix, x > 0, right_dot - matvec(matrix_dot, x))

  x = _non_negative(matrix, right, terms)
  return x, jax.vmap(differentiate)(x, right_dot)


def change_of_free(matrix: jax.Array, free: jax.Array, change: jax.Array) -> jax.Array:
  """Returns the change of the free entries of x, [K], where ``A x = r`` among them.

  Args:
    matrix: [K, K], A.
    free: [K], bools.
    change: [K], the change of r, of which that of A times x is taken off.
  """
  both = free[:, None] & free[None, :]
  # The pseudo-inverse leaves out directions in which the minimum is not unique.
  rtol = len(free) * rounding(matrix.dtype)
  inverse = jnp.linalg.pinv(jnp.where(both, matrix, 0.0), rtol=rtol, hermitian=True)
  return matvec(inverse, jnp.where(free, change, 0.0))


def solve_free(matrix: jax.Array, right: jax.Array, free: jax.Array) -> jax.Array:
  """Solves ``A x = r`` for the free entries of x, [K]; the others are 0."""
  both = free[:, None] & free[None, :]
  # A ridge of the size of rounding makes a singular matrix definite. The corrections
  # take its effect back from all that is not singular.
  ridge = least_ridge(right)
  system = jnp.where(both, matrix, 0.0) + jnp.diag(jnp.where(free, ridge, 1.0))
  factor = jax.scipy.linalg.cho_factor(system, lower=True)

  def correct(_, x):
    residual = jnp.where(free, right - matvec(matrix, x), 0.0)
    return x + jax.scipy.linalg.cho_solve(factor, residual)

  return jax.lax.fori_loop(0, 3, correct, jnp.zeros_like(right))


def least_ridge(vector: jax.Array) -> float:
  """Returns a ridge of the size of rounding, for a matrix with 1 on the diagonal."""
  return 0.5 * len(vector) * rounding(vector.dtype)
