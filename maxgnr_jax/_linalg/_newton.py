"""Newton's method on the simplex, where ``w ≥ 0`` and ``Σ w = 1``."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from maxgnr_jax._linalg._active import num_active, uniform_weights, zero_inactive
from maxgnr_jax._linalg._line_search import search_line

Derivatives = Callable[[jax.Array, Any], tuple[jax.Array, jax.Array]]


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 3, 4))
def minimise_on_simplex(
  derivatives: Derivatives,
  problem: Any,
  active: jax.Array,
  tolerance: float,
  max_steps: int = 60,
) -> jax.Array:
  """Minimises a smooth convex function over the simplex by a primal-dual Newton method.

  Steps are taken relative to ``w``, which keeps the linear system well conditioned when
  the weights differ by orders of magnitude.

  Args:
    derivatives: From weights [K] and the ``problem`` to the gradient [K] and the
      Hessian [K, K], both finite. It must not close over arrays.
    problem: Pytree of the floating-point arrays that define the function. The solution
      can be differentiated with respect to them.
    active: [K], bool: the tasks that may have weight.
    tolerance: Relative duality gap ``(wᵀ∇f - min ∇f) / (|w|ᵀ|∇f|)`` at which to stop,
      positive.
    max_steps: Largest number of steps.

  Returns:
    [K], of sum 1: positive for active tasks, 0 for the others.

  References:
    Boyd and Vandenberghe, Convex Optimization, 2004, Section 11.7.
  """
  dtype = jnp.result_type(*jax.tree.leaves(problem))
  number = num_active(active, dtype)
  inactive = jnp.diag((~active).astype(dtype))

  def divisor(values):  # products of small weights may be 0 in the end
    return jnp.where(active, jnp.maximum(values, jnp.finfo(dtype).tiny), 1.0)

  def gap(w, gradient):
    scale = jnp.vdot(w, jnp.abs(gradient))
    below = jnp.vdot(w, gradient) - _smallest(active, gradient)
    return jnp.where(scale > 0, below / jnp.where(scale > 0, scale, 1.0), 0.0)

  def step(carry):
    count, w, z, level, _ = carry
    gradient, hessian = derivatives(w, problem)
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
      return derivatives(x, problem)[0] - target / divisor(x)

    w_next, length = search_line(barrier_gradient, w, relative, length)
    w_next /= jnp.sum(w_next)
    z_next = z * (1.0 + length * z_relative)
    level_next = level + length * level_step
    relative_gap = gap(w_next, derivatives(w_next, problem)[0])
    # If rounding made the system singular, keep the last point and stop.
    moved = (w_next, z_next, level_next, relative_gap)
    solved = jnp.all(jnp.array([jnp.isfinite(x).all() for x in moved]))
    kept = (w, z, level, jnp.zeros_like(relative_gap))
    return count + 1, *jax.tree.map(lambda a, b: jnp.where(solved, a, b), moved, kept)

  def unsolved(carry):
    count, *_, relative_gap = carry
    return (count < max_steps) & (relative_gap > tolerance)

  w = uniform_weights(active, dtype)
  gradient, _ = derivatives(w, problem)
  smallest = _smallest(active, gradient)
  largest = jnp.max(jnp.where(active, gradient, -jnp.inf))
  spread = jnp.maximum(largest - smallest, 1e-6)
  level = smallest - spread
  start = (jnp.zeros((), int), w, gradient - level, level, gap(w, gradient))
  _, w, *_ = jax.lax.while_loop(unsolved, step, start)
  return w


@minimise_on_simplex.defjvp
def _minimise_on_simplex_jvp(derivatives, tolerance, max_steps, primals, tangents):
  """Differentiates the solution by its optimality conditions.

  With the slacks ``z = ∇f - level`` these are ``w_k z_k = 0`` and ``Σ w = 1``. Their
  derivatives are, for the relative changes r of the weights,
  ``∇²f (w r) + z r - d level = -d∇f`` and ``wᵀ r = 0``.
  """
  problem, active = primals
  w = minimise_on_simplex(derivatives, problem, active, tolerance, max_steps)
  gradient, hessian = derivatives(w, problem)
  _, change = jax.jvp(lambda p: derivatives(w, p)[0], (problem,), tangents[:1])
  # A ridge of one rounding error keeps the system from being singular where the
  # solution is not unique.
  scale = jnp.max(zero_inactive(active, jnp.abs(gradient)))
  ridge = tolerance * jnp.where(scale > 0, scale, 1.0)
  slack = jnp.where(active, gradient - _smallest(active, gradient) + ridge, 1.0)
  rows = zero_inactive(active, hessian * w[None, :]) + jnp.diag(slack)
  level = -active.astype(w.dtype)[:, None]
  corner = jnp.where(jnp.any(active), 0.0, 1.0).astype(w.dtype)[None, None]
  matrix = jnp.block([[rows, level], [w[None, :], corner]])
  right = jnp.append(zero_inactive(active, -change), 0.0)
  return w, w * jnp.linalg.solve(matrix, right)[:-1]


def _smallest(active: jax.Array, gradient: jax.Array) -> jax.Array:
  """Returns the smallest entry of the active tasks."""
  return jnp.min(jnp.where(active, gradient, jnp.inf))
