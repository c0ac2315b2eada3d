"""The convex quadratic programme with lower bounds that several methods share."""

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

  Nesterov's method with adaptive restart and the step 1/λ_max(A), from the bound.
  It converges fastest with ones on the diagonal: let ``v`` absorb the scales.

  Args:
    matrix: [K, K], A, positive semidefinite, of a diagonal of ones (or 0).
    bound: [K].
    linear: [K], b; default 0.
    num_steps: Steps of the ``lax.fori_loop``.

  Returns:
    [K], v.

  References:
    O'Donoghue and Candès, Adaptive Restart for Accelerated Gradient Schemes,
    Foundations of Computational Mathematics 2015.
  """
  linear = jnp.zeros_like(bound) if linear is None else linear
  step_size = 1.0 / jnp.maximum(_largest_eigenvalue(matrix), 1.0)

  def step(_, carry):
    v, ahead, t = carry
    v_next = jnp.maximum(bound, ahead - step_size * (matvec(matrix, ahead) - linear))
    # Momentum that points uphill has overshot: start it again from here.
    restart = jnp.vdot(ahead - v_next, v_next - v) > 0
    t_next = jnp.where(restart, 1.0, (1 + jnp.sqrt(1 + 4 * t * t)) / 2)
    speed = jnp.where(restart, 0.0, (t - 1) / t_next)
    return v_next, v_next + speed * (v_next - v), t_next

  one = jnp.ones((), bound.dtype)
  v, _, _ = jax.lax.fori_loop(0, num_steps, step, (bound, bound, one))
  return v


def _largest_eigenvalue(matrix: jax.Array) -> jax.Array:
  """An upper bound of λ_max of a positive semidefinite matrix, K^(1/16) off at most.

  The Schatten norm ``(Σ λ^16)^(1/16)``, by four squarings; a bound, unlike power
  iteration, cannot make the step too long.
  """
  bound = jnp.ones((), matrix.dtype)
  for squarings in range(4):
    norm = jnp.sqrt(jnp.sum(matrix * matrix))
    bound *= norm ** (0.5**squarings)
    matrix /= jnp.where(norm > 0, norm, 1.0)
    matrix = jnp.matmul(matrix, matrix, precision="highest")
  return bound
