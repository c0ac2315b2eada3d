"""The frame of every aggregator: the update around what a method says for itself."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from maxgnr_jax import _stacked
from maxgnr_jax._checks import (
  as_num_tasks,
  as_sketch_size,
  as_task_mask,
  as_task_values,
  check_choice,
  check_fraction,
  check_num_tasks,
  check_state,
)
from maxgnr_jax._stacked._groups import assign_groups, labels_of
from maxgnr_jax._task_names import check_same_names
from maxgnr_jax.aggregators._by_passes import STACKED, Update, Way, way_of
from maxgnr_jax.aggregators._measured import Measured
from maxgnr_jax.aggregators._method import MEASURES
from maxgnr_jax.aggregators._method import AggregatorState as AggregatorState
from maxgnr_jax.aggregators._method import Choice as Choice
from maxgnr_jax.aggregators._method import Memory as Memory
from maxgnr_jax.aggregators._method import Method as Method
from maxgnr_jax.aggregators._method import Shared as Shared
from maxgnr_jax.aggregators._method import Step as Step
from maxgnr_jax.aggregators._step import Frame, take_step


def aggregator(
  method: Method,
  *,
  num_tasks: int | None = None,
  shared: Shared = None,
  groups: _stacked.Labels = None,
  sketch: int | bool | None = None,
  smoothing: jax.typing.ArrayLike | None = None,
  unshared: str = "weighted",
  rescale: str | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Makes a gradient transformation of a method.

  Args:
    method: What to remember, to measure and to choose.
    num_tasks: K, at least 1. By default it is taken from the first gradients, which
      changes the shapes of the state at the first step. Give it for ``lax.scan``,
      ahead-of-time compilation and checkpoints made before the first step.
    shared: Pytree of bools like the parameters (or a prefix of it), or a function from
      the parameters to one: selects the trunk, where gradients are measured. Default:
      all parameters.
    groups: Parameters that get task weights of their own, as in
      :func:`maxgnr_jax.maxgnr`. The method's measurements and weights then have the
      groups on a leading axis. Default: the same weights for all.
    sketch: Measures sketches of the gradients, as in :func:`gramian_method`: the
      Gramian of :meth:`Step.gramian` is then theirs.
    smoothing: Decay rate, in [0, 1), of an average of the weights over the steps, as in
      :func:`maxgnr_jax.maxgnr`. For methods whose update is a weighted sum.
    unshared: "weighted" or "own": whether parameters outside of ``shared`` get their
      weighted gradient, or the sum of the tasks' gradients.
    rescale: "mean" makes the update as long as the mean of the gradients. For methods
      whose update is a weighted sum. Default: as long as the weights make it.

  Returns:
    An :class:`optax.GradientTransformationExtraArgs` with :class:`AggregatorState`.
    ``update`` takes gradients stacked over the tasks, ``[K, *param.shape]`` in every
    leaf, and returns one update of the parameters' shapes, in the parameters' dtypes if
    these are passed, else in the gradients'.

    ``update`` also takes ``task_mask``, [K] or a pytree like the losses, bool and
    possibly traced: a task where it is False is inactive in this step. So is a task
    whose gradient is not finite (the sum of its squares must not overflow either), and,
    for methods that weigh tasks by gradients or losses, one whose gradient is exactly
    zero: as a rule it would be taken for the neediest task, and stall all others.
    Inside :func:`jax.shard_map` it takes ``axis_name``, the axes over which parameters
    are sharded, and with ``sketch`` also ``param_specs``, a pytree of
    :class:`jax.sharding.PartitionSpec` like the parameters: how they are. It ignores
    other extra arguments.

    Values per task, such as ``task_mask`` and ``losses``, are matched by name in a dict
    or another container with names, whatever its order (see
    :func:`maxgnr_jax.task_names`). A vector, a tuple or a list is in the order of the
    stacked gradients.

    An update can be differentiated with respect to the gradients, the state and traced
    hyperparameters. Derivatives do not pass through values per task. Where an update
    has a kink, such as two orthogonal gradients in PCGrad or a change of the active
    tasks, the derivative is that of one side; at a gradient or a noise of zero that of
    its norm is 0. A gradient that is not finite makes derivatives NaN. In float32 they
    may overflow where norms span more than about twelve decades.

  Raises:
    ValueError: for ``num_tasks`` < 1, other values of ``smoothing``, ``unshared`` or
      ``rescale``, and a ``sketch``, ``smoothing`` or ``rescale`` that does not suit the
      method; from ``init``, if ``shared`` selects no parameters, or only arrays of size
      0, of all or of a group; at the trace of ``update``, for gradients that are not
      stacked, of another number of tasks or of other parameters than the state, and for
      values or a ``task_mask`` that do not hold one number per task or name other tasks
      than the losses.
    TypeError: for parameters or gradients that are not real floating-point arrays, for
      a ``task_mask`` that does not hold bools, and for missing ``values``.

  Example:
    Weights in proportion to how often each task's gradient was the longest so far:

    >>> import jax.numpy as jnp
    >>> from maxgnr_jax.aggregators import Choice, Method, aggregator, remember
    >>> def init(params, shape, dtype):
    ...   return {"wins": jnp.zeros(shape, dtype)}
    >>> def measure(step, memory):
    ...   squared_norm = jnp.diagonal(step.gramian())
    ...   return squared_norm, jnp.isfinite(squared_norm)
    >>> def choose(squared_norm, active, memory):
    ...   squared_norm = jnp.where(active, squared_norm, -1.0)
    ...   won = squared_norm == jnp.max(squared_norm)
    ...   new = remember(active, {"wins": memory["wins"] + won}, memory)
    ...   wins = jnp.where(active, new["wins"], 0.0)
    ...   return Choice(wins / jnp.maximum(jnp.sum(wins), 1.0), new)
    >>> def most_often_longest(num_tasks=None, shared=None):
    ...   method = Method(measure, choose, init)
    ...   return aggregator(method, num_tasks=num_tasks, shared=shared)
    >>> tx = most_often_longest(num_tasks=2)
    >>> state = tx.init(jnp.zeros(1))
    >>> for grads in ([[3.0], [1.0]], [[3.0], [1.0]], [[1.0], [2.0]], [[2.0], [1.0]]):
    ...   updates, state = tx.update(jnp.array(grads), state)
    >>> state.weights.tolist()
    [0.75, 0.25]
  """
  check_num_tasks(num_tasks)
  size = as_sketch_size(sketch)
  frame = Frame(method, size, smoothing, unshared, rescale)
  _check_frame(frame)

  def init(params: optax.Params) -> AggregatorState:
    _stacked.check_floating(params, "Parameters")
    trunk = _stacked.select(shared, params)
    blank = AggregatorState(
      count=jnp.zeros((), jnp.int32),
      weights=None,
      memory={},
      task_count=jnp.zeros((0,), jnp.int32),
      notfinite_count=jnp.zeros((0,), jnp.int32),
      zero_count=jnp.zeros((0,), jnp.int32),
      trunk=jax.tree.map(lambda _: _stacked.Trunk(), trunk),
      groups=assign_groups(groups, params, trunk),
    )
    dtype = _stacked.compute_dtype(params)
    return _with_tasks(frame, blank, trunk, as_num_tasks(num_tasks), dtype)

  @functools.partial(jax.jit, static_argnames=("axis_names", "specs"), inline=True)
  def compiled(grads, state, params, mask, values, further, axis_names, specs):
    with _stacked.sharded_over(axis_names):
      return take_step(frame, specs, grads, state, params, mask, values, further)

  def update(
    grads: optax.Updates | Measured,
    state: AggregatorState,
    params: optax.Params | None = None,
    *,
    task_mask: Any = None,
    axis_name: Any = None,
    param_specs: Any = None,
    **extra_args: Any,
  ) -> tuple[optax.Updates, AggregatorState]:
    check_state(state, AggregatorState)
    _stacked.check_floating(params, "Parameters")
    if isinstance(grads, Measured):
      like, tasks, varying = params, grads.finite.size, params
      trunk = _stacked.restrict(params, state.trunk)
    else:
      _stacked.check_floating(grads, "Gradients")
      if not _stacked.has_numbers(grads):
        return _stacked.nothing_to_measure(grads), state
      trunk = _stacked.restrict(grads, state.trunk)
      if jax.tree.leaves(state.trunk):  # MaxGNR's momentum
        _stacked.count_tasks(trunk, _stacked.one_task(state.trunk), "the state")
      like = _stacked.one_task(grads) if params is None else params
      tasks = _stacked.count_tasks(
        grads, like, "the gradients" if params is None else "the parameters"
      )
      trunk, varying = _stacked.one_task(trunk), grads
    dtype = frame.dtype(state, like)
    if state.task_count.size:
      _stacked.check_same_tasks(tasks, state.task_count.size)
    else:
      state = _with_tasks(frame, state, trunk, tasks, dtype)
    named = extra_args | {"task_mask": task_mask}
    needed = ("losses", "task_mask", *method.values, *method.optional_values)
    check_same_names({name: named.get(name) for name in needed})
    mask = as_task_mask(task_mask, tasks)
    given = [
      name for name in method.optional_values if extra_args.get(name) is not None
    ]
    values = {
      name: as_task_values(name, extra_args.get(name), tasks, dtype)
      for name in (*method.values, *given)
    }
    further = {
      name: extra_args[name] for name in method.gradients if name in extra_args
    }
    axis_names = _stacked.named_axes(axis_name, varying)
    specs = _stacked.specs_of(param_specs, state.trunk)
    # Compiled once, so that a step without `jax.jit` around it is fast; inside of
    # `jax.jit` it becomes a part of the program around it.
    return compiled(grads, state, params, mask, values, further, axis_names, specs)

  def way(
    state: AggregatorState, params: Any, extra_args: dict[str, Any], side_by_side: bool
  ) -> Way:
    measures = method.measures
    if size and measures == "gramian":
      measures = "sketches"
    if (
      not method.weighted
      or any(name in extra_args for name in method.gradients)
      or (measures == "nothing" and rescale is not None)
    ):
      measures = STACKED
    return way_of(
      measures,
      state,
      params,
      side_by_side,
      size=size,
      skips_zero=method.skips_zero,
      dtype=frame.dtype(state, params),
      own_heads=unshared == "own",
    )

  return optax.GradientTransformationExtraArgs(init, Update(update, way))


def _check_frame(frame: Frame) -> None:
  """Raises for options that are wrong, or do not suit the method."""
  method = frame.method
  check_choice("measures", method.measures, MEASURES)
  check_choice("unshared", frame.unshared, ("weighted", "own"))
  if frame.rescale is not None:
    check_choice("rescale", frame.rescale, ("mean",))
  if frame.smoothing is not None:
    check_fraction("smoothing", frame.smoothing)
  if frame.size is not None and (method.measures == "nothing" or not method.weighted):
    raise ValueError(
      "`sketch` is for methods whose update is a weighted sum and whose weights depend "
      f"on measured gradients, got measures={method.measures!r} and "
      f"weighted={method.weighted}. Leave `sketch` out."
    )
  for name in ("smoothing", "rescale"):
    if getattr(frame, name) is not None and not method.weighted:
      raise ValueError(
        f"`{name}` is for methods whose update is a weighted sum, got one with "
        f"weighted=False. Leave `{name}` out."
      )


def _with_tasks(
  frame: Frame, state: AggregatorState, trunk: Any, tasks: int, dtype: Any
) -> AggregatorState:
  """Returns a state before the first step with K known, or 0 if it is not yet."""
  method = frame.method
  shape: tuple[int, ...] = (tasks,)
  if state.groups is not None:
    names = set(jax.tree.leaves(labels_of(state.groups)))
    shape = (len(names), tasks)
  memory = method.init(trunk, shape, dtype)
  if state.memory:  # the parameters' dtypes, where the trunk has the gradients'
    memory = jax.tree.map(lambda x, own: x.astype(own.dtype), memory, state.memory)
  return state._replace(
    weights=jnp.full(shape, 1.0 / max(tasks, 1), dtype) if method.weighted else None,
    memory=memory,
    task_count=jnp.zeros((tasks,), jnp.int32),
    notfinite_count=jnp.zeros((tasks,), jnp.int32),
    zero_count=jnp.zeros((tasks,), jnp.int32),
    smoothed=None if frame.smoothing is None else jnp.zeros(shape, dtype),
  )
