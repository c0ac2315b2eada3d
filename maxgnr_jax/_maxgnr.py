"""MaxGNR as an optax gradient transformation."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from maxgnr_jax import _shared, _stacked
from maxgnr_jax._checks import (
  check_floating,
  check_gamma,
  check_momentum_dtype,
  check_num_tasks,
  check_same_tasks,
  check_solver,
  check_stacked,
  check_state,
  check_task_mask,
  check_weights,
  initial_tasks,
)
from maxgnr_jax._gnr import GradientStats, single_task_gnr, task_gnr
from maxgnr_jax._present import count_where, shared_out
from maxgnr_jax._shards import takes_axis_name
from maxgnr_jax._solvers import Solver, projected_gradient


class MaxGNRState(NamedTuple):
  """State of :func:`maxgnr`; read a field with ``optax.tree.get(opt_state, name)``.

  K-sized fields are float32, or float64 where the parameters are. They are of the
  last step; before the first one ``weights`` are equal and the others 0. With
  ``num_tasks=None`` K is 0 until the first step.

  Attributes:
    count: [], int32. Number of updates.
    momentum: Pytree like the parameters, ``[K, *param.shape]`` in each leaf: the
      estimate of each task's expected gradient (Eq. 13).
      :class:`optax.MaskedNode` where ``shared`` is False.
    weights: [K]. The task weights, non-negative, of sum 1 (Eq. 17).
    gnr: [K]. Each task's GNR under these weights (Eq. 9 with the estimates of
      Eq. 17); infinite without noise, as at the first step.
    single_task_gnr: [K]. The GNR the task would have alone (Eq. 8), likewise.
    stats: :class:`GradientStats`, ``gradient_norm`` [K], ``noise_norm`` [K] and
      ``noise_cosine`` [K, K]: what the weights were chosen from. Of a task that was
      absent from the last step these are 0, as its ``weights`` and ``gnr`` are.
    task_count: [K], int32. In how many updates each task took part.
    notfinite_count: [K], int32. In how many it could not, because its gradient held NaN
      or infinity, or numbers whose squares overflow.
  """

  count: jax.Array  # type: ignore[assignment]
  momentum: optax.Updates
  weights: jax.Array
  gnr: jax.Array
  single_task_gnr: jax.Array
  stats: GradientStats
  task_count: jax.Array
  notfinite_count: jax.Array


def maxgnr(
  gamma: jax.typing.ArrayLike = 0.9,
  *,
  num_tasks: int | None = None,
  shared: Any | Callable[[optax.Params], Any] | None = None,
  solver: Solver = projected_gradient(),
  momentum_dtype: jax.typing.DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Combines the gradients of K tasks so that the smallest GNR is as large as can be.

  Takes gradients stacked over the tasks, ``[K, *param.shape]`` in every leaf,
  and returns their weighted sum, of the parameters' own shape, for the optimiser
  that follows. Stands first in an :func:`optax.chain`.

  Args:
    gamma: Decay rate of each task's momentum, in [0, 1); the paper uses 0.5 to
      0.9. Larger values average the gradient over more steps (about
      1 / (1 - gamma)); 0 sees no noise and weights every task by the inverse of
      its gradient norm. May be a schedule under :func:`optax.inject_hyperparams`,
      which needs ``static_args=("shared", "momentum_dtype")`` if these are given: it
      takes every callable for a schedule.
    num_tasks: K, at least 1. By default it is taken from the first gradients,
      which changes the shapes of the state at the first step: a jitted step is
      traced once more. Give it for ``lax.scan``, ahead-of-time compilation and
      checkpoints made before the first step.
    shared: Pytree of bools like the parameters (or a prefix of it), or a function
      from the parameters to one, as in :func:`optax.masked`: where gradients and
      noises are measured, usually the trunk that the tasks share. Momentum is
      kept there only; the rest still gets its weighted gradient. Default: all.
    solver: Solver of Eq. 17: :func:`projected_gradient`, the optimum, or
      :func:`steepest_descent`, the paper's approximation.
    momentum_dtype: Dtype of the momentum; by default that of the parameter, which
      is also its gradient's. A bfloat16 momentum stands still where it should move by
      less than 0.4 % in a step, so that with a gamma near 1 float32 is better. Under
      ``inject_hyperparams`` give ``hyperparam_dtype=jnp.float32`` with such parameters.

  Returns:
    An :class:`optax.GradientTransformationExtraArgs` with :class:`MaxGNRState`.
    Updates have the dtype of the parameters if these are passed to ``update``,
    else that of the gradients.

    ``update`` takes ``task_mask``, [K] or a pytree like the losses, bool and possibly
    traced: a task where it is False, say without labels in this batch, is absent from
    the step. So is one whose gradient is not finite. The momentum of an absent task
    stays as it is, its weight is 0, and its gradient is not looked at; the others are
    weighted as if there were no more. If all are absent, weights and update are 0.

    Under :func:`jax.jit` parameters and momentum may be sharded over a mesh in any way.
    Inside :func:`jax.shard_map` give ``update`` the ``axis_name``, or names, over which
    parameters are sharded. Either way average each task's gradients over data-parallel
    replicas first: weights are no linear function of them. Other extra arguments are
    ignored.

  Raises:
    ValueError: for ``gamma`` outside [0, 1) or ``num_tasks`` < 1; at the trace of
      ``update``, for gradients that are not stacked, of another number of tasks
      or of other parameters than the state, or without any array, and for a
      ``task_mask`` that is not one value per task.
    TypeError: for integer or complex parameters, gradients or ``momentum_dtype``, and
      for a ``task_mask`` that is not of bools.

  Example:
    >>> import jax.numpy as jnp
    >>> import optax
    >>> from maxgnr_jax import maxgnr, value_and_task_grads
    >>> def losses(params):
    ...   return jnp.sum((params - 1.0) ** 2), jnp.sum(0.01 * params**2)
    >>> params = jnp.array([3.0, -1.0])
    >>> tx = optax.chain(maxgnr(gamma=0.9), optax.sgd(0.1))
    >>> opt_state = tx.init(params)
    >>> _, grads = value_and_task_grads(losses)(params)
    >>> grads.shape
    (2, 2)
    >>> updates, opt_state = tx.update(grads, opt_state, params)
    >>> [f"{weight:.3f}" for weight in optax.tree.get(opt_state, "weights")]
    ['0.011', '0.989']

  References:
    Fan et al., MaxGNR: A Dynamic Weight Strategy via Maximizing
    Gradient-to-Noise Ratio for Multi-Task Learning, Algorithm 1.
  """
  check_gamma(gamma)
  check_momentum_dtype(momentum_dtype)
  check_solver(solver)
  check_num_tasks(num_tasks)

  def init(params: optax.Params) -> MaxGNRState:
    check_floating(params, "Parameters")
    tasks = initial_tasks(num_tasks)
    dtype = _stacked.compute_dtype(params)
    return MaxGNRState(
      count=jnp.zeros((), jnp.int32),
      momentum=_stacked.zeros(_shared.select(shared, params), tasks, momentum_dtype),
      weights=jnp.full((tasks,), 1.0 / max(tasks, 1), dtype),
      gnr=jnp.zeros((tasks,), dtype),
      single_task_gnr=jnp.zeros((tasks,), dtype),
      stats=GradientStats(
        gradient_norm=jnp.zeros((tasks,), dtype),
        noise_norm=jnp.zeros((tasks,), dtype),
        noise_cosine=jnp.zeros((tasks, tasks), dtype),
      ),
      task_count=jnp.zeros((tasks,), jnp.int32),
      notfinite_count=jnp.zeros((tasks,), jnp.int32),
    )

  def update(
    grads: optax.Updates,
    state: MaxGNRState,
    params: optax.Params | None = None,
    *,
    task_mask: Any = None,
    **extra_args: Any,
  ) -> tuple[optax.Updates, MaxGNRState]:
    del extra_args
    check_state(state, MaxGNRState)
    check_floating(grads, "Gradients")
    if not _shared.has_numbers(grads):
      return _shared.nothing_to_measure(grads), state
    measured = _shared.restrict(grads, state.momentum)
    like = _stacked.one_task(grads) if params is None else params
    tasks = check_stacked(measured, _stacked.one_task(state.momentum), "the state")
    check_stacked(grads, like, "the gradients" if params is None else "the parameters")
    momentum, dtype = state.momentum, state.weights.dtype
    task_count, notfinite_count = state.task_count, state.notfinite_count
    if state.weights.size == 0:
      momentum = _stacked.zeros(_stacked.one_task(momentum), tasks, None)
      task_count = notfinite_count = jnp.zeros((tasks,), jnp.int32)
    else:
      check_same_tasks(tasks, state.weights.size)
    mask = check_task_mask(task_mask, tasks)

    # m_0 = g_0: a task's first step forgets the zeros that the state began with.
    decay = jnp.where(task_count == 0, 0.0, gamma).astype(dtype)
    stats, finite = _stacked.measure(measured, momentum, decay, dtype)  # Eq. 16
    rest = _shared.rest(grads, measured)
    finite &= _stacked.finite(rest, tasks, dtype)
    present = mask & finite
    stats = stats.of(present)
    weights = check_weights(solver.solve(stats), tasks, dtype)  # Eq. 17
    weights = shared_out(present, weights)
    return _stacked.combine(weights, grads, like, present), MaxGNRState(
      count=optax.safe_increment(state.count),
      momentum=_stacked.decay(momentum, measured, decay, present),  # Eq. 13
      weights=weights,
      gnr=task_gnr(weights, stats),
      single_task_gnr=single_task_gnr(stats),
      stats=stats,
      task_count=count_where(present, task_count),
      notfinite_count=count_where(mask & ~finite, notfinite_count),
    )

  return optax.GradientTransformationExtraArgs(init, takes_axis_name(update))
