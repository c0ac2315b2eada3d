"""Newton's method on the simplex, where ``w ≥ 0`` and ``Σ w = 1``."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from maxgnr_jax._linalg._active import num_active, uniform_weights, zero_inactive
from maxgnr_jax._linalg._line_search import search_line


def minimise_on_simplex(
  derivatives: Callable[[jax.Array], tuple[jax.Array, jax.Array]],
  active: jax.Array,
  dtype: jnp.dtype,
  *,
  tolerance: float,
  max_steps: int = 60,
) -> jax.Array:
  """Minimises a smooth convex function over the simplex by a primal-dual Newton method.

  Steps are taken relative to ``w``, which keeps the linear system well conditioned when
  the weights differ by orders of magnitude.

  Args:
    derivatives: From weights [K] to the gradient [K] and the Hessian [K, K], both
      finite.
    active: [K], bool: the tasks that may have weight.
    dtype: Dtype of the weights.
    tolerance: Relative duality gap ``(wᵀ∇f - min ∇f) / (|w|ᵀ|∇f|)`` at which to stop,
      positive.
    max_steps: Largest number of steps.

  Returns:
    [K], of sum 1: positive for active tasks, 0 for the others.

  References:
    Boyd and Vandenberghe, Convex Optimization, 2004, Section 11.7.
  """
  number = num_active(active, dtype)
  inactive = jnp.diag((~active).astype(dtype))

  def smallest(gradient):
    return jnp.min(jnp.where(active, gradient, jnp.inf))

  def divisor(values):
    return jnp.where(active, values, 1.0)

  def gap(w, gradient):
    scale = jnp.vdot(w, jnp.abs(gradient))
    below = jnp.vdot(w, gradient) - smallest(gradient)
    return jnp.where(scale > 0, below / jnp.where(scale > 0, scale, 1.0), 0.0)

  def step(carry):
    count, w, z, level, _ = carry
    gradient, hessian = derivatives(w)
    # With the slacks `z = ∇f - level`, the step aims to make every product w_k z_k a
    # tenth of their present mean.
    target = 0.1 * jnp.vdot(w, z) / number
    matrix = w[:, None] * hessian * w[None, :] + jnp.diag(w * z)
    # These terms keep the matrix from being singular through rounding or through the
    # zero rows of inactive tasks.
    matrix += tolerance * jnp.diag(jnp.diagonal(matrix)) + inactive
    right = jnp.stack(
      [w * (level - gradient) + zero_inactive(active, target), w], axis=1
    )
    solution = jnp.linalg.solve(matrix, right)
    level_step = -jnp.vdot(w, solution[:, 0]) / jnp.vdot(w, solution[:, 1])
    relative = solution[:, 0] + level_step * solution[:, 1]
    z_relative = zero_inactive(active, target / divisor(w * z) - 1.0 - relative)
    length = 0.95 / jnp.maximum(jnp.max(-jnp.append(relative, z_relative)), 0.95)

    def barrier_gradient(x):
      return derivatives(x)[0] - target / divisor(x)

    w_next, length = search_line(barrier_gradient, w, relative, length)
    w_next /= jnp.sum(w_next)
    z_next = z * (1.0 + length * z_relative)
    level_next = level + length * level_step
    relative_gap = gap(w_next, derivatives(w_next)[0])
    # If rounding made the system singular, keep the last point and stop.
    moved = (w_next, z_next, level_next, relative_gap)
    solved = jnp.all(jnp.array([jnp.isfinite(x).all() for x in moved]))
    kept = (w, z, level, jnp.zeros_like(relative_gap))
    return count + 1, *jax.tree.map(lambda a, b: jnp.where(solved, a, b), moved, kept)

  def unsolved(carry):
    count, *_, relative_gap = carry
    return (count < max_steps) & (relative_gap > tolerance)

  w = uniform_weights(active, dtype)
  gradient, _ = derivatives(w)
  largest = jnp.max(jnp.where(active, gradient, -jnp.inf))
  spread = jnp.maximum(largest - smallest(gradient), 1e-6)
  level = smallest(gradient) - spread
  start = (jnp.zeros((), int), w, gradient - level, level, gap(w, gradient))
  _, w, *_ = jax.lax.while_loop(unsolved, step, start)
  return w
