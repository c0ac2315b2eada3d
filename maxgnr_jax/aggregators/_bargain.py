"""Nash-MTL and FairGrad: what each task gains is weighed against its weight."""

import jax
import jax.numpy as jnp
import optax

from maxgnr_jax._checks import check_positive
from maxgnr_jax._linalg import (
  cosines,
  inverse_norms,
  matvec,
  only_active,
  rounding,
  search_line,
)
from maxgnr_jax._stacked import Labels
from maxgnr_jax.aggregators._base import Shared
from maxgnr_jax.aggregators._gramian import gramian_rule

MAX_STEPS = 50  # of Newton's method; 5 to 15 are usual


def nash_mtl(
  *, num_tasks: int | None = None, shared: Shared = None, groups: Labels = None
) -> optax.GradientTransformationExtraArgs:
  """The Nash bargaining solution: the largest product of the tasks' gains.

  Its weights solve ``G w = 1 / w``, so that every task gains the same share of its own
  weight, and the update does not change when a task's loss is scaled. Its length is
  √K whatever that of the gradients. The authors' code also clips it to length 1: put
  ``optax.clip_by_global_norm(1.0)`` behind for that.

  Args:
    num_tasks: K, at least 1. By default it is taken from the first gradients, which
      changes the shapes of the state at the first step.
    shared: Selects the trunk, where gradients are measured: a pytree of bools like the
      parameters (or a prefix of it), or a function from the parameters to one. Default:
      all parameters.
    groups: Parameters that get task weights of their own: "layer", "parameter", a
      pytree of labels like the parameters or a prefix of it, or a function from the
      parameters to one. Default: the same weights for all.

  Returns:
    An :class:`optax.GradientTransformationExtraArgs` with :class:`AggregatorState`.

  Example:
    >>> import jax.numpy as jnp
    >>> from maxgnr_jax.aggregators import nash_mtl_weights
    >>> weights = nash_mtl_weights(jnp.array([[4.0, 0.0], [0.0, 1.0]]))
    >>> [f"{weight:.2f}" for weight in weights]
    ['0.50', '1.00']

  References:
    Navon et al., Multi-Task Learning as a Bargaining Game, ICML 2022, Claim 3.1.
  """
  return gramian_rule(
    nash_mtl_weights, num_tasks=num_tasks, shared=shared, groups=groups
  )


def nash_mtl_weights(gramian: jax.Array, active: jax.Array | bool = True) -> jax.Array:
  """The weights of :func:`nash_mtl` for inner products [K, K].

  The authors solve a sequence of convex approximations to a residual of 1e-3. But the
  equation says that the gradient of ``½ wᵀ G w - Σ log w`` is zero, which is convex:
  Newton's method solves it, to a relative residual of 1e-6 or what float32 allows.

  Args:
    gramian: [K, K], ``⟨g_i, g_j⟩``.
    active: [K], bool: the tasks to combine; the weights of others are 0.

  Returns:
    [K], positive; 0 for a task without gradient. Where the gradients cancel and there
    is no solution, large weights of a vanishing sum.
  """
  return fairgrad_weights(gramian, 1.0, active)


def fairgrad(
  alpha: jax.typing.ArrayLike = 1.0,
  *,
  num_tasks: int | None = None,
  shared: Shared = None,
  groups: Labels = None,
) -> optax.GradientTransformationExtraArgs:
  """The α-fair update: the largest ``Σ_k gain_k^(1-α) / (1-α)`` of the tasks' gains.

  Its weights solve ``G w = w^(-1/α)``. α = 1 is :func:`nash_mtl` (proportional
  fairness); a larger α cares more for the task that gains least.

  Args:
    alpha: α, positive. The authors choose between 1 and 10.
    num_tasks: K, at least 1. By default it is taken from the first gradients, which
      changes the shapes of the state at the first step.
    shared: Selects the trunk, where gradients are measured: a pytree of bools like the
      parameters (or a prefix of it), or a function from the parameters to one. Default:
      all parameters.
    groups: Parameters that get task weights of their own: "layer", "parameter", a
      pytree of labels like the parameters or a prefix of it, or a function from the
      parameters to one. Default: the same weights for all.

  Returns:
    An :class:`optax.GradientTransformationExtraArgs` with :class:`AggregatorState`.

  Raises:
    ValueError: for ``alpha`` <= 0.

  Example:
    >>> import jax.numpy as jnp
    >>> from maxgnr_jax.aggregators import fairgrad_weights
    >>> weights = fairgrad_weights(jnp.array([[8.0, 0.0], [0.0, 1.0]]), alpha=2.0)
    >>> [f"{weight:.2f}" for weight in weights]
    ['0.25', '1.00']

  References:
    Ban and Ji, Fair Resource Allocation in Multi-Task Learning, ICML 2024, Eq. 4.
  """
  check_positive("alpha", alpha)
  return gramian_rule(
    lambda gramian, active: fairgrad_weights(gramian, alpha, active),
    num_tasks=num_tasks,
    shared=shared,
    groups=groups,
  )


def fairgrad_weights(
  gramian: jax.Array,
  alpha: jax.typing.ArrayLike,
  active: jax.Array | bool = True,
) -> jax.Array:
  """The weights of :func:`fairgrad` for inner products [K, K].

  In units of the gradients' norms, ``a_k = w_k ‖g_k‖``, with the cosines C and
  q = 1/α, the equation is ``C a = ‖g‖^(q-1) a^(-q)``: a convex problem's condition of
  optimality, solved as :func:`nash_mtl_weights` says.

  Args:
    gramian: [K, K], ``⟨g_i, g_j⟩``.
    alpha: α, positive.
    active: [K], bool: the tasks to combine; the weights of others are 0.

  Returns:
    [K], positive; 0 for a task without gradient. With α above about 5, weights of tasks
    that gain anyhow fall by many orders of magnitude, where float32 leaves their
    equations, not the update, inexact.
  """
  _, gramian = only_active(active, gramian)
  inverse = inverse_norms(gramian)
  # A task without gradient, like one that is absent, has an equation of its own.
  pulls = inverse > 0
  q = 1.0 / jnp.asarray(alpha, gramian.dtype)
  # The scale that all gradients share factors out, here with the mean logarithm.
  log_demand = (1.0 - q) * jnp.log(jnp.where(pulls, inverse, 1.0))
  number = jnp.maximum(jnp.sum(pulls.astype(q.dtype)), 1.0)
  shift = jnp.sum(log_demand) / number
  log_demand = jnp.where(pulls, log_demand - shift, 0.0)
  demand = jnp.exp(jnp.clip(log_demand, -40.0, 40.0))
  cosine = cosines(gramian)
  # Gradients that cancel have no solution: one rounding error makes it a large one.
  ridge = float(jnp.finfo(gramian.dtype).eps)
  cosine += jnp.diag(jnp.where(pulls, ridge, 1.0))
  return _solve(cosine, demand, q) * jnp.exp(shift / (1.0 + q)) * inverse


def _solve(cosine: jax.Array, demand: jax.Array, q: jax.Array) -> jax.Array:
  """Solves ``C a = demand · a^(-q)`` over ``a > 0`` by Newton steps on a line search.

  It is where ``f(a) = ½ aᵀ C a - Σ demand a^(1-q)/(1-q)`` is smallest. Steps are
  relative to ``a``, of which the system's condition then does not depend.
  """

  def gap(a):
    return matvec(cosine, a) - demand * a**-q

  def step(carry):
    count, a, _ = carry
    gain = demand * a ** (1.0 - q)
    hessian = a[:, None] * cosine * a[None, :] + jnp.diag(q * gain)
    relative = jnp.linalg.solve(hessian, -a * gap(a))
    longest = 0.9 / jnp.maximum(jnp.max(-relative), 0.9)
    ahead, _ = search_line(gap, a, relative, longest)
    residual = jnp.max(jnp.abs(gap(ahead)) * ahead**q / demand)
    # A system that rounding made singular has no solution: keep what there is.
    solved = jnp.isfinite(residual)
    return count + 1, jnp.where(solved, ahead, a), jnp.where(solved, residual, 0.0)

  def unsolved(carry):
    count, _, residual = carry
    return (count < MAX_STEPS) & (residual > rounding(residual.dtype))

  # The solution for gradients that are orthogonal.
  start = demand ** (1.0 / (1.0 + q))
  infinite = jnp.asarray(jnp.inf, demand.dtype)
  _, a, _ = jax.lax.while_loop(unsolved, step, (jnp.zeros((), int), start, infinite))
  return a
