"""Nash-MTL and FairGrad, which choose the update as a bargain between the tasks."""

import functools

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
from maxgnr_jax.aggregators._reuse import reuses_steps

MAX_STEPS = 50  # the limit for Newton's method, which usually takes 5 to 15


@reuses_steps
def nash_mtl(
  *,
  num_tasks: int | None = None,
  shared: Shared = None,
  groups: Labels = None,
  sketch: int | bool | None = None,
  smoothing: jax.typing.ArrayLike | None = None,
  unshared: str = "weighted",
  rescale: str | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Maximises the product of the tasks' gains, the Nash bargaining solution.

  A task's gain is the product of its gradient with the update. With the Gramian G the
  weights solve ``G w = 1 / w``: each task's gain is the inverse of its weight. The
  update does not change when a task's loss is scaled, and its length is √K, however
  long the gradients are. The authors' code also clips the update to length 1; chain
  ``optax.clip_by_global_norm(1.0)`` after this transformation to do the same.

  Args:
    num_tasks: K, at least 1. By default it is taken from the first gradients, which
      changes the shapes of the state at the first step.
    shared: Selects the trunk, where gradients are measured: a pytree of bools like the
      parameters (or a prefix of it), or a function from the parameters to one. Default:
      all parameters.
    groups: Parameters that get task weights of their own: "layer", "parameter", a
      pytree of labels like the parameters or a prefix of it, or a function from the
      parameters to one. Default: the same weights for all.
    sketch: Measures sketches of the gradients, as :func:`gramian_method` explains:
      True, or an odd number of buckets from 3 to 65,535. Default: exact measurement.
    smoothing: Decay rate, in [0, 1), of an average of the weights over the steps, as in
      :func:`~maxgnr_jax.maxgnr`. Default: no average.
    unshared: "weighted" or "own", the gradients of parameters outside of ``shared``, as
      in :func:`~maxgnr_jax.maxgnr`.
    rescale: "mean" makes the update as long as the mean of the gradients, as in
      :func:`~maxgnr_jax.maxgnr`. Default: as long as the weights make it.

  Returns:
    An :class:`optax.GradientTransformationExtraArgs` with :class:`AggregatorState`.

  Raises:
    ValueError: for ``num_tasks`` < 1; at the trace of ``update``, for gradients that
      are not stacked or of another number of tasks.
    TypeError: for integer or complex parameters or gradients.

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
    nash_mtl_weights,
    num_tasks=num_tasks,
    shared=shared,
    smoothing=smoothing,
    unshared=unshared,
    rescale=rescale,
    groups=groups,
    sketch=sketch,
  )


def nash_mtl_weights(gramian: jax.Array, active: jax.Array | bool = True) -> jax.Array:
  """Returns the weights of :func:`nash_mtl` for a Gramian.

  The authors solve a sequence of convex approximations to a residual of 1e-3. Here
  Newton's method minimises the convex function ``½ wᵀ G w - Σ log w``, whose gradient
  is zero where ``G w = 1 / w``, to a relative residual of 1e-6 or what float32 allows.

  Args:
    gramian: [K, K], ``⟨g_i, g_j⟩``.
    active: [K], bool: the tasks to combine; the weights of others are 0.

  Returns:
    [K], positive; 0 for a task without gradient. If the gradients cancel, no solution
    exists: the weights are then large and the weighted sum nearly vanishes.
  """
  return fairgrad_weights(gramian, 1.0, active)


@reuses_steps
def fairgrad(
  alpha: jax.typing.ArrayLike = 1.0,
  *,
  num_tasks: int | None = None,
  shared: Shared = None,
  groups: Labels = None,
  sketch: int | bool | None = None,
  smoothing: jax.typing.ArrayLike | None = None,
  unshared: str = "weighted",
  rescale: str | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Maximises ``Σ_k gain_k^(1-α) / (1-α)``, the α-fair sum of the tasks' gains.

  A task's gain is the product of its gradient with the update. With the Gramian G the
  weights solve ``G w = w^(-1/α)``.

  Args:
    alpha: α, positive. The default 1 is proportional fairness, the same as
      :func:`nash_mtl`; larger values favour the task that gains least. The authors
      choose between 1 and 10.
    num_tasks: K, at least 1. By default it is taken from the first gradients, which
      changes the shapes of the state at the first step.
    shared: Selects the trunk, where gradients are measured: a pytree of bools like the
      parameters (or a prefix of it), or a function from the parameters to one. Default:
      all parameters.
    groups: Parameters that get task weights of their own: "layer", "parameter", a
      pytree of labels like the parameters or a prefix of it, or a function from the
      parameters to one. Default: the same weights for all.
    sketch: Measures sketches of the gradients, as :func:`gramian_method` explains:
      True, or an odd number of buckets from 3 to 65,535. Default: exact measurement.
    smoothing: Decay rate, in [0, 1), of an average of the weights over the steps, as in
      :func:`~maxgnr_jax.maxgnr`. Default: no average.
    unshared: "weighted" or "own", the gradients of parameters outside of ``shared``, as
      in :func:`~maxgnr_jax.maxgnr`.
    rescale: "mean" makes the update as long as the mean of the gradients, as in
      :func:`~maxgnr_jax.maxgnr`. Default: as long as the weights make it.

  Returns:
    An :class:`optax.GradientTransformationExtraArgs` with :class:`AggregatorState`.

  Raises:
    ValueError: for ``alpha`` <= 0 or ``num_tasks`` < 1; at the trace of ``update``, for
      gradients that are not stacked or of another number of tasks.
    TypeError: for integer or complex parameters or gradients.

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
    smoothing=smoothing,
    unshared=unshared,
    rescale=rescale,
    groups=groups,
    sketch=sketch,
  )


def fairgrad_weights(
  gramian: jax.Array,
  alpha: jax.typing.ArrayLike,
  active: jax.Array | bool = True,
) -> jax.Array:
  """Returns the weights of :func:`fairgrad` for a Gramian.

  With ``a_k = w_k ‖g_k‖``, the cosines C between the gradients and q = 1/α, the
  equation becomes ``C a = ‖g‖^(q-1) a^(-q)``. This is the optimality condition of a
  convex problem, which Newton's method solves to a relative residual of 1e-6 or what
  float32 allows.

  Args:
    gramian: [K, K], ``⟨g_i, g_j⟩``.
    alpha: α, positive.
    active: [K], bool: the tasks to combine; the weights of others are 0.

  Returns:
    [K], positive; 0 for a task without gradient. With α above about 5, or with α above
    1 and norms that differ by more than 1e6, tasks that gain even without weight of
    their own get weights many orders of magnitude smaller. In float32 these weights are
    inexact, but the update is not.
  """
  _, gramian = only_active(active, gramian)
  inverse = inverse_norms(gramian)
  # A task that has no gradient or is inactive gets an equation independent of the rest.
  has_gradient = inverse > 0
  q = 1.0 / jnp.asarray(alpha, gramian.dtype)
  # The common scale of the gradients, their geometric mean, factors out.
  log_demand = (1.0 - q) * jnp.log(jnp.where(has_gradient, inverse, 1.0))
  number = jnp.maximum(jnp.sum(has_gradient.astype(q.dtype)), 1.0)
  shift = jnp.sum(log_demand) / number
  log_demand = jnp.where(has_gradient, log_demand - shift, 0.0)
  demand = jnp.exp(jnp.clip(log_demand, -40.0, 40.0))
  cosine = cosines(gramian)
  # Gradients that cancel have no solution. A ridge of one rounding error gives them a
  # large but finite one.
  ridge = float(jnp.finfo(gramian.dtype).eps)
  cosine += jnp.diag(jnp.where(has_gradient, ridge, 1.0))
  return _solve(cosine, demand, q) * jnp.exp(shift / (1.0 + q)) * inverse


@jax.custom_jvp
def _solve(cosine: jax.Array, demand: jax.Array, q: jax.Array) -> jax.Array:
  """Solves ``C a = demand · a^(-q)`` over ``a > 0`` by Newton's method.

  The solution minimises ``f(a) = ½ aᵀ C a - Σ demand a^(1-q)/(1-q)``. Steps are taken
  relative to ``a``, which keeps the linear system well conditioned when its entries
  differ by orders of magnitude, and their length is found by a line search.
  """

  def gradient(a):
    return _gradient(a, cosine, demand, q)

  def step(carry):
    count, a, _ = carry
    relative = jnp.linalg.solve(_hessian(a, cosine, demand, q), -a * gradient(a))
    longest = 0.9 / jnp.maximum(jnp.max(-relative), 0.9)
    moved, _ = search_line(gradient, a, relative, longest)
    residual = jnp.max(jnp.abs(gradient(moved)) * moved**q / demand)
    # If rounding made the system singular, keep the last point and stop.
    solved = jnp.isfinite(residual)
    return count + 1, jnp.where(solved, moved, a), jnp.where(solved, residual, 0.0)

  def unsolved(carry):
    count, _, residual = carry
    return (count < MAX_STEPS) & (residual > rounding(residual.dtype))

  # Start from the solution for orthogonal gradients.
  start = demand ** (1.0 / (1.0 + q))
  infinite = jnp.asarray(jnp.inf, demand.dtype)
  _, a, _ = jax.lax.while_loop(unsolved, step, (jnp.zeros((), int), start, infinite))
  return a


@_solve.defjvp
def _solve_jvp(primals, tangents):
  """Differentiates the solution by the equation that it solves."""
  a = _solve(*primals)
  _, change = jax.jvp(functools.partial(_gradient, a), primals, tangents)
  hessian = _hessian(a, *primals)
  # Where gradients cancel, rounding could make the system singular.
  hessian += rounding(a.dtype) * jnp.diag(jnp.diagonal(hessian))
  return a, a * jnp.linalg.solve(hessian, -a * change)


def _gradient(
  a: jax.Array, cosine: jax.Array, demand: jax.Array, q: jax.Array
) -> jax.Array:
  """Returns the gradient of f, [K]."""
  return matvec(cosine, a) - demand * a**-q


def _hessian(
  a: jax.Array, cosine: jax.Array, demand: jax.Array, q: jax.Array
) -> jax.Array:
  """Returns the Hessian of f, its rows and columns multiplied by a, [K, K]."""
  gain = demand * a ** (1.0 - q)
  return a[:, None] * cosine * a[None, :] + jnp.diag(q * gain)
