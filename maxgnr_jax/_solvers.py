"""Solvers of Eq. 17, which choose K weights from the statistics of K tasks.

A task with a gradient of exactly zero is left out of the problem and gets weight 0. If
every gradient is zero, all weights are equal.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from maxgnr_jax._checks import check_at_least_one, check_positive
from maxgnr_jax._gnr import GradientStats
from maxgnr_jax._linalg import (
  minimise_above,
  minimise_above_by_newton,
  quadratic_form,
  unit_largest,
  zero_inactive,
)


@dataclasses.dataclass(frozen=True)
class Solver:
  """A rule that chooses the task weights.

  To use a rule of your own, pass ``solver=Solver(rule)`` to :func:`maxgnr`.

  Attributes:
    solve: From :class:`GradientStats` to weights [K] that are non-negative and sum to
      1. It must be pure JAX, because it is traced into the train step.
  """

  # The function is wrapped in a class because `optax.inject_hyperparams` takes every
  # callable argument for a schedule.
  solve: Callable[[GradientStats], jax.Array]


# Steps of `projected_newton`; up to this many also 2 K, which is enough for few tasks.
MOST_STEPS = 12


def projected_newton(num_steps: int | None = None) -> Solver:
  """Finds the global optimum of Eq. 17 by projected Newton steps.

  The ratio in Eq. 17 does not change when all weights are scaled. Instead of fixing
  their sum, the problem can therefore require ``w_k ‖m_k‖ ≥ 1`` of every task and
  minimise the weighted noise. With ``v_k = w_k ‖n_k‖`` and the cosines C between the
  noises it is a convex quadratic programme,

      minimise ``vᵀ C v``  subject to  ``v_k ≥ ‖n_k‖ / ‖m_k‖``.

  A step multiplies the gradient by the inverse of C among the entries that may move,
  and projects on the bounds (a two-metric projection). A multiple of the identity is
  added to C, which falls from 1 to the size of rounding over the steps. Rescaling the
  loss of a task changes neither C nor the bounds.

  Args:
    num_steps: Number of steps, at least 1. By default 12, or 2 K for less than 6 tasks:
      they reach more than 0.999 of the optimum for up to 128 tasks if the matrix C has
      a condition number of at most 1,000, and for up to 64 tasks if it has 10,000.
      Float32 hardly tells a condition number of a million from infinity: some of the
      optimum is lost there.

  Returns:
    A :class:`Solver`.

  Raises:
    ValueError: if ``num_steps`` is not None or an integer of at least 1.

  Example:
    >>> import jax.numpy as jnp
    >>> from maxgnr_jax import GradientStats, projected_newton
    >>> stats = GradientStats(
    ...     jnp.array([1.0, 3.0]), jnp.array([1.0, 1.0]), jnp.eye(2)
    ... )
    >>> weights = projected_newton().solve(stats)  # uncorrelated: w ∝ 1 / ‖m‖
    >>> [f"{weight:.2f}" for weight in weights]
    ['0.75', '0.25']

  References:
    Fan et al., MaxGNR: A Dynamic Weight Strategy via Maximizing Gradient-to-Noise Ratio
    for Multi-Task Learning, Eq. 17. Bertsekas, Projected Newton Methods for
    Optimization Problems with Simple Constraints, SIAM Journal on Control and
    Optimization 1982.
  """
  if num_steps is not None:
    check_at_least_one("num_steps", num_steps)
  return Solver(
    functools.partial(_optimum, minimise=minimise_above_by_newton, num_steps=num_steps)
  )


def projected_gradient(num_steps: int = 300) -> Solver:
  """Finds the global optimum of Eq. 17 by accelerated projected gradient descent.

  Solves the quadratic programme of :func:`projected_newton` by Nesterov's method with
  adaptive restart and a step size of about 1/λ_max(C). It factorises no matrix, which
  some accelerators cannot do, but needs more steps, one after another.

  Args:
    num_steps: Number of steps, at least 1. The default 300 reaches more than 0.999 of
      the optimum for up to 128 tasks for most matrices C with a condition number of at
      most 1,000. Noises that cancel almost exactly need more steps.

  Returns:
    A :class:`Solver`.

  Raises:
    ValueError: if ``num_steps`` is not an integer of at least 1.

  Example:
    >>> import jax.numpy as jnp
    >>> from maxgnr_jax import GradientStats, projected_gradient
    >>> stats = GradientStats(
    ...     jnp.array([1.0, 3.0]), jnp.array([1.0, 1.0]), jnp.eye(2)
    ... )
    >>> weights = projected_gradient().solve(stats)  # uncorrelated: w ∝ 1 / ‖m‖
    >>> [f"{weight:.2f}" for weight in weights]
    ['0.75', '0.25']

  References:
    Fan et al., MaxGNR: A Dynamic Weight Strategy via Maximizing Gradient-to-Noise Ratio
    for Multi-Task Learning, Eq. 17. O'Donoghue and Candès, Adaptive Restart for
    Accelerated Gradient Schemes, Foundations of Computational Mathematics 2015.
  """
  check_at_least_one("num_steps", num_steps)
  return Solver(
    functools.partial(_optimum, minimise=minimise_above, num_steps=num_steps)
  )


@functools.partial(jax.jit, static_argnames=("minimise", "num_steps"))
def _optimum(
  stats: GradientStats, *, minimise: Callable[..., jax.Array], num_steps: int | None
) -> jax.Array:
  """Returns the weights [K] that ``minimise`` finds to be optimal."""
  if num_steps is None:
    num_steps = min(MOST_STEPS, 2 * stats.noise_norm.size)
  cosine, bound = quadratic_programme(stats)
  v = minimise(cosine, bound, num_steps=num_steps)
  # u is w ‖m‖ up to a factor. More weight for a task without noise cannot cancel the
  # noise of others, so that its lower bound u = 1 is optimal.
  u = jnp.where(bound > 0, v / jnp.where(bound > 0, bound, 1.0), 1.0)
  return _normalise(u, stats.gradient_norm)


def quadratic_programme(stats: GradientStats) -> tuple[jax.Array, jax.Array]:
  """Returns the matrix C [K, K] and the bounds [K] of Eq. 17 as a quadratic programme.

  The bounds ``‖n_k‖ / ‖m_k‖`` are divided by the largest. Rows, columns and bounds of
  tasks without gradient or noise are 0.
  """
  has_gradient = stats.gradient_norm > 0
  divisor = jnp.where(has_gradient, stats.gradient_norm, 1.0)
  bound = unit_largest(jnp.where(has_gradient, stats.noise_norm / divisor, 0.0))
  return zero_inactive(bound > 0, stats.noise_cosine, axes=2), bound


def _normalise(u: jax.Array, gradient_norm: jax.Array) -> jax.Array:
  """Returns the weights ``w_k ∝ u_k / ‖m_k‖``, [K], of sum 1."""
  has_gradient = gradient_norm > 0
  smallest = jnp.min(jnp.where(has_gradient, gradient_norm, jnp.inf))
  smallest = jax.lax.stop_gradient(smallest)  # the sum divides it out
  # Every factor lies in [0, 1], so that nothing overflows for gradients of any scale.
  inverse_norm = jnp.where(
    has_gradient, smallest / jnp.where(has_gradient, gradient_norm, 1.0), 0.0
  )
  weights = unit_largest(u) * inverse_norm
  total = jnp.sum(weights)
  equal = 1.0 / weights.size
  return jnp.where(total > 0, weights / jnp.where(total > 0, total, 1.0), equal)


def steepest_descent(learning_rate: float = 1e-3, num_steps: int = 100) -> Solver:
  """Approximates the optimum of Eq. 17 by the paper's own solver (Section 5.1).

  Use it to reproduce the paper, and :func:`projected_newton` to train: with the
  paper's settings and gradients of ordinary size, the weights hardly change from
  uniform ones.

  The paper gives the method, the learning rate and the number of steps. This
  implementation fills in the rest so as to favour the method. It starts from uniform
  weights, follows the gradient of ``min_k GNR_k`` (averaged over tied tasks), projects
  the weights on the simplex ``w ≥ 0, Σ w = 1`` after each step, and returns the best
  weights of all steps, which are never worse than uniform ones. It cannot be
  differentiated.

  Args:
    learning_rate: Step size in units of weight per GNR, positive. The default is the
      paper's.
    num_steps: Number of steps, at least 1. The default is the paper's.

  Returns:
    A :class:`Solver`.

  Raises:
    ValueError: if ``learning_rate`` is not positive or ``num_steps`` not an
      integer of at least 1.

  Example:
    >>> import jax.numpy as jnp
    >>> from maxgnr_jax import GradientStats, steepest_descent
    >>> stats = GradientStats(
    ...     jnp.array([1.0, 3.0]), jnp.array([1.0, 1.0]), jnp.eye(2)
    ... )
    >>> weights = steepest_descent().solve(stats)  # the optimum is 0.75, 0.25
    >>> [f"{weight:.2f}" for weight in weights]
    ['0.60', '0.40']

  References:
    Fan et al., MaxGNR: A Dynamic Weight Strategy via Maximizing Gradient-to-Noise Ratio
    for Multi-Task Learning, Eq. 17 and Section 5.1.
  """
  check_positive("learning_rate", learning_rate)
  check_at_least_one("num_steps", num_steps)
  return Solver(
    functools.partial(
      _steepest_descent, learning_rate=learning_rate, num_steps=num_steps
    )
  )


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
@functools.partial(jax.jit, static_argnums=2)
def _steepest_descent(
  stats: GradientStats, learning_rate: jax.typing.ArrayLike, num_steps: int
) -> jax.Array:
  """Returns the weights [K] of :func:`steepest_descent`."""
  has_gradient = stats.gradient_norm > 0
  # The GNR does not change when gradients and noises are divided by the same number.
  unit = jnp.maximum(jnp.max(stats.gradient_norm), jnp.max(stats.noise_norm))
  unit = jax.lax.stop_gradient(jnp.where(unit > 0, unit, 1.0))
  signal = stats.gradient_norm / unit
  noise = jnp.where(has_gradient, stats.noise_norm / unit, 0.0)
  cosine = stats.noise_cosine
  above_all = jnp.where(jnp.any(has_gradient), jnp.inf, 0.0).astype(signal.dtype)

  def smallest_gnr(weights):
    smallest = jnp.min(jnp.where(has_gradient, weights * signal, above_all))
    # Rounding may make the squared norm negative where the noises cancel.
    squared = quadratic_form(cosine, weights * noise)
    noisy = squared > 0
    without_noise = jnp.where(smallest > 0, jnp.inf, 0.0)
    return jnp.where(noisy, smallest**2 / jnp.where(noisy, squared, 1.0), without_noise)

  def step(_, carry):
    weights, best_weights, best = carry
    gradient = jax.grad(smallest_gnr)(weights)
    gradient = jnp.where(jnp.isfinite(gradient) & has_gradient, gradient, 0.0)
    with jax.numpy_dtype_promotion("standard"):  # optax mixes ints and floats
      weights = optax.projections.projection_simplex(weights + learning_rate * gradient)
    weights = jnp.where(has_gradient, weights, 0.0)
    value = smallest_gnr(weights)
    better = value > best
    best_weights = jnp.where(better, weights, best_weights)
    return weights, best_weights, jnp.where(better, value, best)

  equal = _normalise(jnp.ones_like(signal), jnp.where(has_gradient, 1.0, 0.0))
  start = (equal, equal, smallest_gnr(equal))
  _, best_weights, _ = jax.lax.fori_loop(0, num_steps, step, start)
  return best_weights / jnp.sum(best_weights)


@_steepest_descent.defjvp
def _steepest_descent_jvp(num_steps, primals, tangents):
  raise TypeError(
    "`maxgnr(solver=steepest_descent())` cannot be differentiated: its steps go to and "
    "fro between tasks, so that derivatives of its weights grow without bound. Use the "
    "default `projected_newton()`, or `jax.lax.stop_gradient` around the update."
  )
