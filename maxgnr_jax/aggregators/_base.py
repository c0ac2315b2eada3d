"""The frame of every aggregator: what it says for itself, and the update around it."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from maxgnr_jax import _stacked
from maxgnr_jax._checks import (
  as_num_tasks,
  as_task_mask,
  as_task_values,
  as_weights,
  check_num_tasks,
  check_state,
)
from maxgnr_jax._linalg import count_where, zero_inactive
from maxgnr_jax._stacked._groups import assign_groups, labels_of

Shared = Any | Callable[[optax.Params], Any] | None
Memory = dict[str, Any]


class AggregatorState(NamedTuple):
  """State of every aggregator but :func:`maxgnr_jax.maxgnr`, which has its own.

  Read a field with ``optax.tree.get(opt_state, name)``.

  Attributes:
    count: [], int32. Number of updates.
    weights: [K], or [G, K] with G groups; float32, or float64 where the parameters are.
      The weights that made the most recent update, 0 for inactive tasks; uniform before
      the first step. K is 0 until then with ``num_tasks=None``. None for methods whose
      update is no weighted sum of the gradients.
    memory: What the method remembers from step to step, by name; its docstring says
      what. Empty for most. What it remembers of an inactive task stays as it is.
    task_count: [K], int32. Number of updates in which each task was active.
    notfinite_count: [K], int32. Number of updates in which each task was inactive
      because its gradient, or a number that the method reads, was not finite.
    trunk: Pytree like the parameters, without arrays: says which ``shared`` selected
      when the state was made. :class:`optax.MaskedNode` stands for the others.
    groups: Pytree like the parameters, without arrays: says which group each belongs
      to. None without groups.
  """

  count: jax.Array  # type: ignore[assignment]
  weights: jax.Array | None
  memory: Memory
  task_count: jax.Array
  notfinite_count: jax.Array
  trunk: Any = None
  groups: Any = None


@dataclasses.dataclass(frozen=True)
class Step:
  """What a method may measure in one step.

  Attributes:
    count: [], int32. Number of updates before this one.
    task_count: [K], int32. Number of updates before this one in which each task was
      active.
    weights: [K] or [G, K]. The weights of the step before, uniform at first; None for
      methods without weights.
    grads: Stacked gradients of the trunk, with :class:`optax.MaskedNode` in place of
      other parameters. Those of masked tasks may hold anything.
    values: The numbers per task that were passed to ``update``, by name, each [K].
    dtype: Dtype of K-sized arithmetic.
    labels: Pytree of labels, the group of each parameter; None without groups.
  """

  count: jax.Array
  task_count: jax.Array
  weights: jax.Array | None
  grads: optax.Updates
  values: Mapping[str, jax.Array]
  dtype: Any
  labels: Any = None

  @property
  def num_tasks(self) -> int:
    """K."""
    return self.task_count.size

  def in_groups(self, fun: Callable[..., Any], *trees: Any) -> Any:
    """Calls ``fun`` with each group's part of pytrees like ``grads``.

    Returns:
      What ``fun`` returns; with groups, stacked over the groups.
    """
    parts = zip(*(_stacked.split(self.labels, tree) for tree in trees), strict=True)
    results = [fun(*part) for part in parts]
    return results[0] if self.labels is None else _stacked.stack(results)

  def gramian(self, other: optax.Updates | None = None) -> jax.Array:
    """Measures ``⟨g_i, g_j⟩``: [K, K], or [G, K, K] with groups.

    Args:
      other: Stacked pytree like ``grads``: then ``⟨g_i, other_j⟩``.
    """
    trees = (self.grads,) if other is None else (self.grads, other)
    return self.in_groups(
      lambda g, *rest: _stacked.gramian(g, self.dtype, *rest), *trees
    )

  def finite(self) -> jax.Array:
    """Tells which tasks' gradients hold neither NaN nor infinity, [K]; reads them."""
    return _stacked.finite(self.grads, self.num_tasks, self.dtype)


class Choice(NamedTuple):
  """What a method decides in one step.

  Attributes:
    weights: [K], or [G, K] with groups: the update is the weighted sum of the
      gradients. None if the update is ``combined``.
    memory: What the method remembers for the next step, of the same structure as
      before. Use :func:`remember` to leave that of inactive tasks as it is.
    combined: Pytree like one task's gradients of the trunk: the update there, for
      methods whose update is no weighted sum of the gradients.
    head_weights: [K], the weights outside of the trunk beside ``combined``.
  """

  weights: jax.Array | None = None
  memory: Memory = {}  # noqa: RUF012 - never written to
  combined: optax.Updates | None = None
  head_weights: jax.Array | None = None


def no_memory(params: Any, shape: tuple[int, ...], dtype: Any) -> Memory:
  """Starts the memory of a method whose steps do not depend on each other."""
  del params, shape, dtype
  return {}


class Method(NamedTuple):
  """What an aggregator says for itself; :func:`aggregator` does everything else.

  Attributes:
    measure: From a :class:`Step` and the memory to what the choice depends on, and
      which tasks' gradients are finite, [K] bool. Measure K-sized numbers where you
      can. If measuring does not tell which are finite, return None: the update is then
      looked at, and made once more without the tasks that spoil it.
    choose: From the measurements, the active tasks [K] bool and the memory to a
      :class:`Choice`. It must be the method's choice if there were no tasks but the
      active ones; what was measured of the others may be anything. The frame sets
      their weights to 0.
    init: From the parameters of the trunk (or their shapes), the shape of the weights
      ([K], or [G, K] with groups) and the dtype of K-sized numbers to the memory before
      the first step.
    values: Names of the numbers per task that ``update`` must be given, such as
      ``("losses",)``. A task for which one is not finite is inactive.
    optional_values: Names of numbers per task that ``update`` may be given.
    weighted: Whether the update is a weighted sum of the gradients.
  """

  measure: Callable[[Step, Memory], tuple[Any, jax.Array | None]]
  choose: Callable[[Any, jax.Array, Memory], Choice]
  init: Callable[[Any, tuple[int, ...], Any], Memory] = no_memory
  values: tuple[str, ...] = ()
  optional_values: tuple[str, ...] = ()
  weighted: bool = True


def aggregator(
  method: Method,
  *,
  num_tasks: int | None = None,
  shared: Shared = None,
  groups: _stacked.Labels = None,
) -> optax.GradientTransformationExtraArgs:
  """Makes a gradient transformation of a method.

  Args:
    method: What to remember, to measure and to choose.
    num_tasks: K, at least 1. By default it is taken from the first gradients, which
      changes the shapes of the state at the first step. Give it for ``lax.scan``,
      ahead-of-time compilation and checkpoints made before the first step.
    shared: Pytree of bools like the parameters (or a prefix of it), or a function from
      the parameters to one: selects the trunk, where gradients are measured. The other
      parameters get their weighted gradient. Default: all parameters.
    groups: Parameters that get task weights of their own, as in :func:`maxgnr`. The
      method's measurements and weights then have the groups on a leading axis.
      Default: the same weights for all.

  Returns:
    An :class:`optax.GradientTransformationExtraArgs` with :class:`AggregatorState`.
    ``update`` takes gradients stacked over the tasks, ``[K, *param.shape]`` in every
    leaf, and returns one update of the parameters' shapes, in the parameters' dtypes if
    these are passed, else in the gradients'.

    ``update`` also takes ``task_mask``, [K] or a pytree like the losses, bool and
    possibly traced: a task where it is False is inactive in this step, and so is one
    whose gradient is not finite. Inside :func:`jax.shard_map` it takes ``axis_name``,
    the axes over which parameters are sharded. It ignores other extra arguments.

  Raises:
    ValueError: for ``num_tasks`` < 1 and for groups without parameters of the trunk; at
      the trace of ``update``, for gradients that are not stacked, of another number of
      tasks or of other parameters than the state, and for values or a ``task_mask``
      that do not hold one number per task.
    TypeError: for integer or complex parameters or gradients, for a ``task_mask`` that
      does not hold bools, and for missing ``values``.

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

  def init(params: optax.Params) -> AggregatorState:
    _stacked.check_floating(params, "Parameters")
    trunk = _stacked.select(shared, params)
    blank = AggregatorState(
      count=jnp.zeros((), jnp.int32),
      weights=None,
      memory={},
      task_count=jnp.zeros((0,), jnp.int32),
      notfinite_count=jnp.zeros((0,), jnp.int32),
      trunk=jax.tree.map(lambda _: _stacked.Trunk(), trunk),
      groups=assign_groups(groups, params, trunk),
    )
    dtype = _stacked.compute_dtype(params)
    return _with_tasks(method, blank, trunk, as_num_tasks(num_tasks), dtype)

  def update(
    grads: optax.Updates,
    state: AggregatorState,
    params: optax.Params | None = None,
    *,
    task_mask: Any = None,
    **extra_args: Any,
  ) -> tuple[optax.Updates, AggregatorState]:
    # Validate.
    check_state(state, AggregatorState)
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
    dtype = _dtype(state, like)
    if state.task_count.size:
      _stacked.check_same_tasks(tasks, state.task_count.size)
    else:
      state = _with_tasks(method, state, _stacked.one_task(trunk), tasks, dtype)
    mask = as_task_mask(task_mask, tasks)
    given = [
      name for name in method.optional_values if extra_args.get(name) is not None
    ]
    values = {
      name: as_task_values(name, extra_args.get(name), tasks, dtype)
      for name in (*method.values, *given)
    }

    # Measure.
    labels = None if state.groups is None else labels_of(state.groups)
    step = Step(
      state.count, state.task_count, state.weights, trunk, values, dtype, labels
    )
    measurements, measured_finite = method.measure(step, state.memory)

    # Find the active tasks.
    finite = jnp.ones((tasks,), bool)
    for name in method.values:
      finite &= jnp.isfinite(values[name])
    if measured_finite is not None:
      finite &= measured_finite
      finite &= _stacked.finite(_stacked.heads(grads, trunk), tasks, dtype)

    # Choose and combine.
    def attempt(active: jax.Array) -> tuple[optax.Updates, Any, Memory]:
      choice = method.choose(measurements, active, state.memory)
      weights = None
      if method.weighted:
        assert state.weights is not None
        weights = as_weights(choice.weights, state.weights.shape, dtype)
        weights = jnp.where(active if labels is None else active[None], weights, 0)
      updates = _combine(choice, weights, grads, trunk, like, active, labels)
      return updates, weights, choice.memory

    result = attempt(mask & finite)
    if measured_finite is None:

      def again(carry):
        finite = carry[1] & _stacked.finite(grads, tasks, dtype)
        return jnp.ones((), bool), finite, attempt(mask & finite)

      # A loop of no or one turn: XLA would copy what comes out of a branch.
      carry = (_stacked.all_finite(result[:2]), finite, result)
      _, finite, result = jax.lax.while_loop(lambda carry: ~carry[0], again, carry)

    # Record.
    updates, weights, memory = result
    return updates, state._replace(
      count=optax.safe_increment(state.count),
      weights=weights,
      memory=memory,
      task_count=count_where(mask & finite, state.task_count),
      notfinite_count=count_where(mask & ~finite, state.notfinite_count),
    )

  return optax.GradientTransformationExtraArgs(init, _stacked.takes_axis_name(update))


def _with_tasks(
  method: Method, state: AggregatorState, trunk: Any, tasks: int, dtype: Any
) -> AggregatorState:
  """Returns a state before the first step with K known, or 0 if it is not yet."""
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
  )


def _dtype(state: AggregatorState, like: Any) -> Any:
  """Returns the dtype of K-sized arithmetic."""
  return _stacked.compute_dtype(like if state.weights is None else state.weights)


def _combine(
  choice: Choice,
  weights: jax.Array | None,
  grads: optax.Updates,
  trunk: optax.Updates,
  like: Any,
  active: jax.Array,
  labels: Any,
) -> optax.Updates:
  """Makes the update that a method chose, in the dtypes of ``like``."""
  if choice.combined is None:
    assert weights is not None
    rows = [weights] if labels is None else list(weights)
    parts = (_stacked.split(labels, tree) for tree in (grads, like))
    return _stacked.merge(
      [
        _stacked.combine(row, part, shapes, active)
        for row, part, shapes in zip(rows, *parts, strict=True)
      ]
    )
  any_active = jnp.any(active)
  combined = jax.tree.map(
    lambda x, shape: jnp.where(any_active, x, 0).astype(jnp.result_type(shape)),
    choice.combined,
    _stacked.restrict(like, trunk),
  )
  heads = _stacked.combine(
    zero_inactive(active, choice.head_weights),
    _stacked.heads(grads, trunk),
    _stacked.heads(like, trunk),
    active,
  )
  return _stacked.merge([combined, heads])
