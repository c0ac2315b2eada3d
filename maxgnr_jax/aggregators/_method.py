"""What a method says for itself: what it remembers, measures and chooses."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec as P

from maxgnr_jax import _stacked
from maxgnr_jax.aggregators._measured import Measured

Shared = Any | Callable[[optax.Params], Any] | None
Memory = dict[str, Any]
# What a method may measure, from the least to the most.
MEASURES = ("nothing", "sketches", "gramian", "gradients")


class AggregatorState(NamedTuple):
  """State of every aggregator but :func:`maxgnr_jax.maxgnr`, which has its own.

  :func:`maxgnr_jax.aggregator_state` finds it in the state of a whole optimiser.

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
      because its gradient, or a number that the method reads, was not finite or so
      large that its square overflows.
    zero_count: [K], int32. Number of updates in which each task was inactive because
      every number of its gradient was zero. Methods that weigh tasks by neither
      gradients nor losses do not look, and keep 0.
    trunk: Pytree like the parameters, without arrays: says which ``shared`` selected
      when the state was made. :class:`optax.MaskedNode` stands for the others.
    groups: Pytree like the parameters, without arrays: says which group each belongs
      to. None without groups.
    smoothed: Array like ``weights``, the average of the weights' logarithms, up to a
      constant that all tasks share. None without ``smoothing``.
  """

  count: jax.Array  # type: ignore[assignment]
  weights: jax.Array | None
  memory: Memory
  task_count: jax.Array
  notfinite_count: jax.Array
  zero_count: jax.Array
  trunk: Any = None
  groups: Any = None
  smoothed: jax.Array | None = None


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
    mask: [K], bool. The tasks that ``task_mask`` does not exclude.
    dtype: Dtype of K-sized arithmetic.
    labels: Pytree of labels, the group of each parameter; None without groups.
    further: Further stacked gradients that were passed to ``update``, by name.
    sketch_size: The size of the sketches by which gradients are measured; None if they
      are measured themselves.
    specs: How each array of the trunk is sharded inside of :func:`jax.shard_map`; None
      if it was not said.
    measured: What was measured in place of ``grads``, which is then None.
  """

  count: jax.Array
  task_count: jax.Array
  weights: jax.Array | None
  grads: optax.Updates
  values: Mapping[str, jax.Array]
  mask: jax.Array
  dtype: Any
  labels: Any = None
  further: Mapping[str, optax.Updates] = dataclasses.field(default_factory=dict)
  sketch_size: int | None = None
  specs: tuple[P, ...] | None = None
  measured: Measured | None = None

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

  def in_each_group(self, fun: Callable[..., Any], *arrays: jax.Array) -> Any:
    """Calls ``fun`` with arrays or, with groups, with each row of them.

    Returns:
      What ``fun`` returns; with groups, stacked over the groups.
    """
    if self.labels is None:
      return fun(*arrays)
    return _stacked.stack([fun(*rows) for rows in zip(*arrays, strict=True)])

  @functools.cached_property
  def sketches(self) -> jax.Array:
    """The gradients' sketches, [K, size], or [G, K, size] with groups."""
    known = None if self.measured is None else self.measured.sketches
    return self._sketch(self.grads) if known is None else known

  def gramian(
    self, grads: optax.Updates | None = None, other: optax.Updates | None = None
  ) -> jax.Array:
    """Measures ``⟨g_i, g_j⟩``, [K, K], or [G, K, K] with groups.

    With ``sketch_size`` this is the Gramian of sketches.

    Args:
      grads: Stacked pytree, g. Default: the gradients of the trunk.
      other: Stacked pytree like it: then ``⟨g_i, other_j⟩``.
    """
    if grads is None and other is None:
      return self._own_gramian
    return self._measure_gramian(grads, other)

  @functools.cached_property
  def _own_gramian(self) -> jax.Array:
    known = None if self.measured is None else self.measured.gramian
    return self._measure_gramian(None, None) if known is None else known

  def _measure_gramian(
    self, grads: optax.Updates | None, other: optax.Updates | None
  ) -> jax.Array:
    def measure(g: optax.Updates, other: optax.Updates | None = None) -> jax.Array:
      return _stacked.gramian(g, self.dtype, other, self.mask)

    others = () if other is None else (other,)
    if self.sketch_size is None:
      return self.in_groups(measure, self.grads if grads is None else grads, *others)
    first = self.sketches if grads is None else self._sketch(grads)
    return self.in_each_group(measure, first, *map(self._sketch, others))

  def _sketch(self, grads: optax.Updates) -> jax.Array:
    size = self.sketch_size
    assert size is not None
    if self.specs is None:
      return self.in_groups(lambda g: _stacked.sketch(g, size, self.dtype), grads)

    def sketch(g: optax.Updates, specs: Any) -> jax.Array:
      return _stacked.sketch(g, size, self.dtype, jax.tree.leaves(specs))

    specs = jax.tree.unflatten(jax.tree.structure(grads), self.specs)
    return self.in_groups(sketch, grads, specs)

  def zero(self, grads: optax.Updates | None) -> jax.Array:
    """Tells which tasks' gradients are exactly zero, [K], in what was measured.

    Args:
      grads: Stacked pytree, in which to look if nothing else was measured.
    """
    if self.measured is not None and self.measured.zero is not None:
      return self.measured.zero
    if self.sketch_size is not None and not self.further:
      sketches = jnp.moveaxis(self.sketches, -2, 0)
      return jnp.all(sketches == 0, axis=tuple(range(1, sketches.ndim)))
    return _stacked.largest(grads, self.dtype, self.mask) == 0

  def finite(self) -> jax.Array:
    """Tells which tasks' gradients are finite, and their squares too, [K].

    Reads the gradients.
    """
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
    gradients: Names of further stacked gradients that ``update`` may be given.
    weighted: Whether the update is a weighted sum of the gradients.
    measures: What of the gradients ``measure`` reads, which tells
      :func:`maxgnr_jax.value_and_combined_grad` the cheapest way: "nothing", "gramian"
      (:meth:`Step.gramian` of the step's gradients only), "sketches"
      (:attr:`Step.sketches` only) or "gradients".
    skips_zero: Whether a task whose gradient is exactly zero is inactive. Without that
      most rules take it for the neediest task, and stall all others.
  """

  measure: Callable[[Step, Memory], tuple[Any, jax.Array | None]]
  choose: Callable[[Any, jax.Array, Memory], Choice]
  init: Callable[[Any, tuple[int, ...], Any], Memory] = no_memory
  values: tuple[str, ...] = ()
  optional_values: tuple[str, ...] = ()
  gradients: tuple[str, ...] = ()
  weighted: bool = True
  measures: str = "gradients"
  skips_zero: bool = True
