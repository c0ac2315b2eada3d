"""MaxGNR as an optax gradient transformation."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from maxgnr_jax import _stacked
from maxgnr_jax._checks import (
  as_sketch_size,
  as_weights,
  check_choice,
  check_fraction,
  check_gamma,
  check_momentum_dtype,
  check_solver,
  check_state,
)
from maxgnr_jax._gnr import GradientStats, NoiseAverage, no_noise, single_task_gnr
from maxgnr_jax._linalg import corrected_decay, redistribute, zero_inactive
from maxgnr_jax._maxgnr_state import MaxGNRState, frame_state, own_state
from maxgnr_jax._measure import measure as measure_stats
from maxgnr_jax._solvers import Solver, projected_newton
from maxgnr_jax.aggregators._base import Choice, Memory, Method, Step, aggregator
from maxgnr_jax.aggregators._by_passes import Update, Way
from maxgnr_jax.aggregators._reuse import reuses_steps


@reuses_steps
def maxgnr(
  gamma: jax.typing.ArrayLike = 0.9,
  *,
  num_tasks: int | None = None,
  shared: Any | Callable[[optax.Params], Any] | None = None,
  solver: Solver = projected_newton(),
  momentum_dtype: jax.typing.DTypeLike | None = None,
  momentum_rounding: str = "nearest",
  noise_decay: jax.typing.ArrayLike | None = None,
  groups: _stacked.Labels = None,
  sketch: int | bool | None = None,
  smoothing: jax.typing.ArrayLike | None = None,
  unshared: str = "weighted",
  rescale: str | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Combines the gradients of K tasks so that the smallest GNR is as large as possible.

  Takes gradients stacked over the tasks, ``[K, *param.shape]`` in every leaf,
  and returns their weighted sum, of the parameters' own shape, for the optimiser
  that follows. Stands first in an :func:`optax.chain`.

  Args:
    gamma: Decay rate of each task's momentum, in [0, 1); the paper uses 0.5 to
      0.9. Larger values average the gradient over more steps (about
      1 / (1 - gamma)); 0 sees no noise and weights every task by the inverse of
      its gradient norm. May be a schedule under :func:`optax.inject_hyperparams`,
      which takes every callable for a schedule and every number for an array: name
      ``shared``, ``groups``, ``momentum_dtype`` and a number for ``sketch`` in its
      ``static_args`` if you pass them.
    num_tasks: K, at least 1. By default it is taken from the first gradients,
      which changes the shapes of the state at the first step: a jitted step is
      traced once more. Give it for ``lax.scan``, ahead-of-time compilation and
      checkpoints made before the first step.
    shared: Selects the trunk, where gradients and noises are measured: a pytree of
      bools like the parameters (or a prefix of it), or a function from the parameters
      to one. As in :func:`optax.masked`, a pytree that can be called, such as an
      Equinox module, is read unless all its leaves can be called. Momentum is kept for
      the trunk only. Default: all parameters.
    solver: Solver of Eq. 17: :func:`projected_newton`, the optimum,
      :func:`projected_gradient`, the same without factorising a matrix, or
      :func:`steepest_descent`, the paper's approximation.
    momentum_dtype: Dtype of the momentum; by default each parameter's, which is also
      its gradient's. A bfloat16 momentum stands still where it should move by less
      than 0.4 % in a step, so float32 is better if gamma is near 1. Under
      ``inject_hyperparams`` with bfloat16 parameters also give
      ``hyperparam_dtype=jnp.float32``.
    momentum_rounding: "nearest" or "stochastic". Stochastic rounding makes a narrow
      momentum right on average, so that it does not stand still, in the same memory.
    noise_decay: Decay rate of an average of the noises' Gramian, in [0, 1). Eq. 9
      contains its expectation, for which Eq. 17 takes the last sample. Default: the
      last sample, as in the paper.
    groups: Parameters that get task weights of their own: "layer", "parameter", a
      pytree of labels (strings) like the parameters or a prefix of it, or a function
      from the parameters to one. Default: the same weights for all.
    sketch: Measures a sketch of each gradient in place of all its numbers: they are
      added up, with pseudo-random signs, in this many buckets, an odd number (a prime
      is best) from 3 to 65,535. True takes 16,381. Norms and cosines then have an error
      of about ``sqrt(2 / sketch)``, 1 %, and the momentum takes ``K · sketch`` numbers,
      whatever the size of the model. Default: exact measurement.
    smoothing: Decay rate, in [0, 1), of an average of the weights' logarithms over the
      steps, which makes steadier weights of those that jump. The sum of the weights
      stays, and the average does not depend on the scale of a loss. An inactive task
      keeps its average and comes back with it. A weight below a thousandth of the
      task's average so far counts as that thousandth, so that weights stay positive.
      Default: the weights of this step, as in the paper.
    unshared: "weighted" or "own": whether parameters that ``shared`` leaves out, such
      as the heads of single tasks, get their weighted gradient, or the sum of the
      tasks' gradients, as if each task had an optimiser of its own for its head. With
      "own" a head also learns while its task's gradient is zero on the trunk.
    rescale: "mean" multiplies the weights so that the update is as long as the mean of
      the active tasks' gradients, where these are measured. Adam hides the length of
      updates; plain SGD, clipping and weight decay do not. Where gradients all but
      cancel, their sum counts as at least a thousandth of the lengths that add up. It
      takes the Gramian of the gradients, another pass over them unless ``sketch`` is
      given. Default: weights of sum 1.

  Returns:
    An :class:`optax.GradientTransformationExtraArgs` with :class:`MaxGNRState`.
    Updates have the dtype of the parameters if these are passed to ``update``,
    else that of the gradients.

    ``update`` takes ``task_mask``, [K] or a pytree like the losses, bool and possibly
    traced: a task where it is False, for instance one without labels in this batch, is
    inactive in this step. So is a task whose gradient is not finite (the sum of its
    squares must not overflow either), or is exactly zero: a ratio of 0 cannot be made
    larger, and says nothing about how to weigh the others. An inactive task keeps its
    momentum, has weight 0, and its gradient is ignored; the other tasks are weighted as
    if it did not exist. If no task is active, weights and update are 0.

    Under :func:`jax.jit` parameters and momentum may be sharded over a mesh in any way.
    Inside :func:`jax.shard_map` give ``update`` the ``axis_name``, or names, over which
    parameters are sharded, and with ``sketch`` also ``param_specs``, a pytree of
    :class:`jax.sharding.PartitionSpec` like the parameters. In both cases average each
    task's gradients over data-parallel replicas first (inside ``shard_map``, average
    the losses before they are differentiated), because weights are not linear in the
    gradients. Other extra arguments are ignored.

  Raises:
    ValueError: for ``gamma``, ``noise_decay`` or ``smoothing`` outside [0, 1), for
      ``num_tasks`` < 1, and for other values of ``unshared`` or ``rescale``;
      from ``init``, if ``shared`` selects no parameters, or only arrays of size 0, of
      all or of a group; at the trace of ``update``, for gradients that are not stacked,
      of another number of tasks or of other parameters than the state, or without any
      array, and for a ``task_mask`` that does not hold one value per task.
    TypeError: for parameters or gradients that are not real floating-point arrays, for
      a ``momentum_dtype`` that is not real floating point, and for a ``task_mask`` that
      does not hold bools.

  Example:
    >>> import jax.numpy as jnp
    >>> import optax
    >>> from maxgnr_jax import aggregator_state, maxgnr, value_and_task_grads
    >>> def losses(params):
    ...   return jnp.sum((params - 1.0) ** 2), jnp.sum(0.01 * params**2)
    >>> params = jnp.array([3.0, -1.0])
    >>> tx = optax.chain(maxgnr(gamma=0.9), optax.sgd(0.1))
    >>> opt_state = tx.init(params)
    >>> _, grads = value_and_task_grads(losses)(params)
    >>> grads.shape
    (2, 2)
    >>> updates, opt_state = tx.update(grads, opt_state, params)
    >>> [f"{weight:.3f}" for weight in aggregator_state(opt_state).weights]
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
  size = as_sketch_size(sketch)

  def init(params: Any, shape: tuple[int, ...], dtype: Any) -> Memory:
    # One array each: a step may give up the memory of every one.
    if size is None:
      momentum = _stacked.zeros(params, shape[-1], momentum_dtype)
    else:
      momentum = jnp.zeros((*shape, size), momentum_dtype or dtype)
    return {
      "momentum": momentum,
      "single_task_gnr": jnp.zeros(shape, dtype),
      "stats": GradientStats(
        gradient_norm=jnp.zeros(shape, dtype),
        noise_norm=jnp.zeros(shape, dtype),
        noise_cosine=jnp.zeros((*shape, shape[-1]), dtype),
      ),
      "noise": None if noise_decay is None else no_noise(shape, dtype),
    }

  def measure(step: Step, memory: Memory) -> tuple[Any, jax.Array]:
    momentum = memory["momentum"]
    # m_0 = g_0: a task's first step forgets the zeros that the state began with.
    decay = jnp.where(step.task_count == 0, 0.0, gamma).astype(step.dtype)

    def measure_group(g: Any, m: Any) -> tuple[GradientStats, jax.Array]:
      return measure_stats(g, m, decay, step.mask, step.dtype)

    if size is None:
      observed, in_groups = step.grads, step.in_groups
    else:
      observed, in_groups = step.sketches, step.in_each_group
    stats, finite = in_groups(measure_group, observed, momentum)
    finite = finite if step.labels is None else jnp.all(finite, axis=0)
    return (step, observed, stats, decay), finite

  def choose(measurements: Any, active: jax.Array, memory: Memory) -> Choice:
    step, observed, stats, decay = measurements

    def choose_in_group(stats: GradientStats, noise: NoiseAverage | None):
      stats = _of_active(active, stats)
      if noise is not None:
        noise = noise.follow(stats, _kept(noise_decay, step, active))
        stats = stats._replace(noise_norm=noise.norm, noise_cosine=noise.cosine)
        stats = _of_active(active, stats)
      weights = as_weights(solver.solve(stats), active.shape, step.dtype)  # Eq. 17
      weights = redistribute(active, weights)
      return weights, single_task_gnr(stats), stats, noise

    in_each = choose_in_group if step.labels is None else jax.vmap(choose_in_group)
    weights, alone, stats, noise = in_each(stats, memory["noise"])
    seed = step.count.astype(jnp.uint32) if momentum_rounding == "stochastic" else None

    def follow(m: Any, g: Any) -> Any:
      return _stacked.decay(m, g, decay, active, seed)

    in_groups = jax.vmap(follow) if size and step.labels is not None else follow
    momentum = in_groups(memory["momentum"], observed)
    known = {"single_task_gnr": alone, "stats": stats, "noise": noise}
    return Choice(weights, {"momentum": momentum, **known})  # Eq. 13

  method = Method(measure, choose, init, measures="sketches" if size else "gradients")
  inner = aggregator(
    method,
    num_tasks=num_tasks,
    shared=shared,
    groups=groups,
    sketch=size,
    smoothing=smoothing,
    unshared=unshared,
    rescale=rescale,
  )

  def init_state(params: optax.Params) -> MaxGNRState:
    return own_state(inner.init(params), size is not None)

  def update(
    grads: optax.Updates,
    state: MaxGNRState,
    params: optax.Params | None = None,
    **extra_args: Any,
  ) -> tuple[optax.Updates, MaxGNRState]:
    check_state(state, MaxGNRState)
    updates, after = inner.update(grads, frame_state(state), params, **extra_args)
    return updates, own_state(after, size is not None)

  def way(state: MaxGNRState, *args: Any, **options: Any) -> Way:
    return inner.update.way(frame_state(state), *args, **options)

  return optax.GradientTransformationExtraArgs(init_state, Update(update, way))


def _of_active(active: jax.Array, stats: GradientStats) -> GradientStats:
  """Returns the statistics with zeros for inactive tasks."""
  return GradientStats(
    gradient_norm=zero_inactive(active, stats.gradient_norm),
    noise_norm=zero_inactive(active, stats.noise_norm),
    noise_cosine=zero_inactive(active, stats.noise_cosine, axes=2),
  )


def _kept(noise_decay: Any, step: Step, active: jax.Array) -> jax.Array:
  """Returns how much of each task's average noise stays, [K].

  A task's first step is no sample of its noise.
  """
  samples = jnp.maximum(step.task_count - 1, 0).astype(step.dtype)
  keep = corrected_decay(jnp.asarray(noise_decay, step.dtype), samples)
  return jnp.where(active & (step.task_count > 0), keep, 1.0)
