"""MaxGNR as an optax gradient transformation."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from maxgnr_jax import _stacked
from maxgnr_jax._checks import (
  check_choice,
  check_fraction,
  check_num_tasks,
  check_state,
  check_task_mask,
  check_weights,
  initial_tasks,
)
from maxgnr_jax._gnr import (
  GradientStats,
  NoiseAverage,
  no_noise,
  single_task_gnr,
  task_gnr,
)
from maxgnr_jax._linalg._active import count_where, shared_out
from maxgnr_jax._measure import measure
from maxgnr_jax._solvers import Solver, projected_gradient
from maxgnr_jax._stacked import (
  _groups,
  _trunk,
  check_floating,
  check_same_tasks,
  check_stacked,
)
from maxgnr_jax._stacked._sharding import takes_axis_name


class MaxGNRState(NamedTuple):
  """State of :func:`maxgnr`; read a field with ``optax.tree.get(opt_state, name)``.

  K-sized fields are float32, or float64 where the parameters are. They are of the
  last step; before the first one ``weights`` are equal and the others 0. With
  ``num_tasks=None`` K is 0 until the first step. With ``groups`` all of them but the
  counts have the groups on a leading axis, sorted by label (see :func:`group_names`).

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
    noise: :class:`NoiseAverage` over the steps if ``noise_decay`` was given, else None.
  """

  count: jax.Array  # type: ignore[assignment]
  momentum: optax.Updates
  weights: jax.Array
  gnr: jax.Array
  single_task_gnr: jax.Array
  stats: GradientStats
  task_count: jax.Array
  notfinite_count: jax.Array
  noise: NoiseAverage | None = None


def maxgnr(
  gamma: jax.typing.ArrayLike = 0.9,
  *,
  num_tasks: int | None = None,
  shared: Any | Callable[[optax.Params], Any] | None = None,
  solver: Solver = projected_gradient(),
  momentum_dtype: jax.typing.DTypeLike | None = None,
  momentum_rounding: str = "nearest",
  noise_decay: jax.typing.ArrayLike | None = None,
  groups: _groups.Labels = None,
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
    momentum_rounding: "nearest" or "stochastic": with the latter a narrow momentum is
      right on average, at the memory of bfloat16, and does not stand still.
    noise_decay: Decay rate of an average of the noises' Gram matrix, in [0, 1): Eq. 9
      has its expectation, for which Eq. 17 takes the last sample. Default: the last
      sample, as in the paper.
    groups: Parameters that get task weights of their own: "layer", "parameter", a
      pytree of labels (strings) like the parameters or a prefix of it, or a function
      from the parameters (or their shapes) to one. Default: the same for all.

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
    replicas first (inside ``shard_map``, the losses before they are differentiated):
    weights are no linear function of gradients. Other extra arguments are ignored.

  Raises:
    ValueError: for ``gamma`` or ``noise_decay`` outside [0, 1), for groups without
      measured parameters, or ``num_tasks`` < 1; at the trace of
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
  check_choice("momentum_rounding", momentum_rounding, ("nearest", "stochastic"))
  if noise_decay is not None:
    check_fraction("noise_decay", noise_decay)
  check_solver(solver)
  check_num_tasks(num_tasks)

  def init(params: optax.Params) -> MaxGNRState:
    check_floating(params, "Parameters")
    tasks = initial_tasks(num_tasks)
    dtype = _stacked.compute_dtype(params)
    measured = _trunk.select(shared, params)
    shape: tuple[int, ...] = (tasks,)
    if groups is not None and jax.tree.leaves(params):
      labels, names = _groups.label(groups, params), _groups.group_names(groups, params)
      _groups.check_measured(names, _groups.split(labels, names, measured))
      shape = (len(names), tasks)
    return MaxGNRState(
      count=jnp.zeros((), jnp.int32),
      momentum=_stacked.zeros(measured, tasks, momentum_dtype),
      weights=jnp.full(shape, 1.0 / max(tasks, 1), dtype),
      gnr=jnp.zeros(shape, dtype),
      single_task_gnr=jnp.zeros(shape, dtype),
      stats=GradientStats(
        gradient_norm=jnp.zeros(shape, dtype),
        noise_norm=jnp.zeros(shape, dtype),
        noise_cosine=jnp.zeros((*shape, tasks), dtype),
      ),
      task_count=jnp.zeros((tasks,), jnp.int32),
      notfinite_count=jnp.zeros((tasks,), jnp.int32),
      noise=None if noise_decay is None else no_noise(shape, dtype),
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
    if not _trunk.has_numbers(grads):
      return _trunk.nothing_to_measure(grads), state
    measured = _trunk.restrict(grads, state.momentum)
    like = _stacked.one_task(grads) if params is None else params
    tasks = check_stacked(measured, _stacked.one_task(state.momentum), "the state")
    check_stacked(grads, like, "the gradients" if params is None else "the parameters")
    if state.weights.size == 0:
      state = _with_tasks(state, tasks)
    else:
      check_same_tasks(tasks, state.weights.shape[-1])
    momentum, dtype = state.momentum, state.weights.dtype
    mask = check_task_mask(task_mask, tasks)

    # m_0 = g_0: a task's first step forgets the zeros that the state began with.
    decay = jnp.where(state.task_count == 0, 0.0, gamma).astype(dtype)
    split, merge = _splitting(groups, grads)
    measures = [
      measure(g, m, decay, dtype)  # Eq. 16
      for g, m in zip(split(measured), split(momentum), strict=True)
    ]
    rest = _trunk.rest(grads, measured)
    finite = _stacked.finite(rest, tasks, dtype)
    for _, finite_here in measures:
      finite &= finite_here
    present = mask & finite

    def choose(stats: GradientStats, noise: NoiseAverage | None):
      stats = stats.of(present)
      if noise is not None:
        noise = noise.follow(stats, _kept(noise_decay, state, present))
        stats = stats._replace(noise_norm=noise.norm, noise_cosine=noise.cosine)
        stats = stats.of(present)
      weights = check_weights(solver.solve(stats), tasks, dtype)  # Eq. 17
      weights = shared_out(present, weights)
      return weights, task_gnr(weights, stats), single_task_gnr(stats), stats, noise

    every_stats = [stats for stats, _ in measures]
    if groups is None:
      chosen = choose(every_stats[0], state.noise)
      weights_of_parts = [chosen[0]]
    else:
      chosen = jax.vmap(choose)(_stacked.stack(every_stats), state.noise)
      weights_of_parts = list(chosen[0])
    weights, gnr, alone, stats, noise = chosen
    updates = merge(
      [
        _stacked.combine(w, g, reference, present)
        for w, g, reference in zip(
          weights_of_parts, split(grads), split(like), strict=True
        )
      ]
    )
    seed = state.count.astype(jnp.uint32) if momentum_rounding == "stochastic" else None
    return updates, MaxGNRState(
      count=optax.safe_increment(state.count),
      momentum=_stacked.decay(momentum, measured, decay, present, seed),  # Eq. 13
      weights=weights,
      gnr=gnr,
      single_task_gnr=alone,
      stats=stats,
      task_count=count_where(present, state.task_count),
      notfinite_count=count_where(mask & ~finite, state.notfinite_count),
      noise=noise,
    )

  return optax.GradientTransformationExtraArgs(init, takes_axis_name(update))


def _with_tasks(state: MaxGNRState, tasks: int) -> MaxGNRState:
  """A state from before the first step, now that K is known."""
  nobody = jnp.zeros((tasks,), jnp.int32)
  shape = (*state.weights.shape[:-1], tasks)
  return state._replace(
    momentum=_stacked.zeros(_stacked.one_task(state.momentum), tasks, None),
    task_count=nobody,
    notfinite_count=nobody,
    noise=None if state.noise is None else no_noise(shape, state.weights.dtype),
  )


def _splitting(groups: _groups.Labels, grads: optax.Updates) -> tuple[Any, Any]:
  """How to take a pytree like ``grads`` apart into groups, and back."""
  if groups is None:
    return lambda tree: [tree], lambda parts: parts[0]
  shapes = _stacked.one_task(grads)
  labels, names = _groups.label(groups, shapes), _groups.group_names(groups, shapes)
  return functools.partial(_groups.split, labels, names), _groups.merge


def _kept(noise_decay: Any, state: MaxGNRState, present: jax.Array) -> jax.Array:
  """How much of each task's average noise stays: ρ, corrected for its beginning at 0.

  Of ρ (1 - ρⁿ) / (1 - ρⁿ⁺¹) after n samples the average has no bias (Kingma and Ba,
  Adam, ICLR 2015). The first step of a task is no sample of its noise.
  """
  dtype = state.weights.dtype
  rho = jnp.asarray(noise_decay, dtype)
  samples = jnp.maximum(state.task_count - 1, 0).astype(dtype)
  keep = rho * (1.0 - rho**samples) / (1.0 - rho ** (samples + 1.0))
  return jnp.where(present & (state.task_count > 0), keep, 1.0)


def check_gamma(gamma: Any) -> None:
  """Raises unless ``0 <= gamma < 1``; a traced value passes unseen."""
  if callable(gamma):
    raise TypeError(
      f"`gamma` must be a number in [0, 1), got {gamma!r}. For a schedule use "
      "`optax.inject_hyperparams(maxgnr)(gamma=schedule)`."
    )
  if isinstance(gamma, jax.core.Tracer):
    return
  try:
    valid = not isinstance(gamma, str) and 0 <= float(gamma) < 1
  except TypeError:
    valid = False
  if not valid:
    raise ValueError(
      f"`gamma`, the decay rate of the momentum, must lie in [0, 1), got {gamma!r}."
    )


def check_momentum_dtype(dtype: Any) -> None:
  """Raises unless ``dtype`` is None or real floating point."""
  if dtype is not None and not jnp.issubdtype(dtype, jnp.floating):
    raise TypeError(
      f"`momentum_dtype` must be a real floating-point dtype or None, got {dtype!r}."
    )


def check_solver(solver: Any) -> None:
  """Raises unless ``solver`` has a method to solve Eq. 17 with."""
  if not callable(getattr(solver, "solve", None)):
    raise TypeError(
      f"`solver` must be a `Solver`, such as `projected_gradient()`, got {solver!r}. "
      "Call a function that makes one; wrap a rule of your own in `Solver(rule)`."
    )
