"""Serves an aggregator by backward passes, in place of stacked gradients.

The weights of a weighted sum are chosen from a few numbers per task. Where these can be
had without K gradients of all parameters, one backward pass of the weighted sum of the
losses makes the update.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from maxgnr_jax import _stacked
from maxgnr_jax._checks import as_task_mask, as_task_values
from maxgnr_jax._grads._passes import MicrobatchPasses, Passes
from maxgnr_jax._linalg import zero_inactive
from maxgnr_jax._task_names import check_same_names
from maxgnr_jax.aggregators._attempts import until_good
from maxgnr_jax.aggregators._measured import Measured

# If the trunk has at most this share of the numbers, its K gradients are measured, and
# a further pass makes the update. Otherwise the gradients of all parameters are at
# hand, and they are combined.
LARGEST_PART = 0.5
# Arrays of at most this many numbers are reduced together.
SMALL = 2**14
# What a :class:`Way` measures if gradients must be stacked.
STACKED = "stacked gradients"


class Way(NamedTuple):
  """How to measure the gradients of a step.

  Attributes:
    measures: "nothing", "gradients", "gramian", "sketches" or ``STACKED``.
    trunk: The state's record of the trunk.
    size: The size of sketches.
    skips_zero: Whether a task with a gradient of exactly zero is inactive.
    dtype: Dtype of K-sized arithmetic.
    own_heads: Whether gradients outside of the trunk are added up without weights.
  """

  measures: str
  trunk: Any
  size: int | None
  skips_zero: bool
  dtype: Any
  own_heads: bool

  def weighted(self, passes: Any, weights: jax.Array, mask: jax.Array) -> Any:
    """Returns the combined gradient for weights [K] and the tasks of ``mask``, [K]."""
    if not self.own_heads:
      return passes.weighted(weights)
    return passes.weighted(weights, mask.astype(weights.dtype), self.trunk)


class Kept:
  """Stands for stacked gradients in an ``update`` that keeps the weights of its state.

  Args:
    passes: The passes.
    weights: [K], the weights of the state.
    mask: [K], bool: the tasks that take part.
  """

  def __init__(self, passes: Passes, weights: jax.Array, mask: jax.Array):
    self.passes, self.weights, self.mask = passes, weights, mask

  @property
  def dtype(self) -> Any:
    """See :class:`Passes`."""
    return self.passes.dtype


@dataclasses.dataclass(frozen=True)
class Update:
  """The ``update`` of an aggregator, which takes backward passes as well.

  Attributes:
    update: Takes stacked gradients, or what was :class:`Measured` of them.
    way: From state, parameters, extra arguments and whether passes can go side by side
      to the :class:`Way` to serve a step.
  """

  update: Callable[..., tuple[Any, Any]]
  way: Callable[..., Way]

  def __call__(
    self, grads: Any, state: Any, params: Any = None, **extra_args: Any
  ) -> tuple[optax.Updates, Any]:
    """Updates as any :class:`optax.GradientTransformationExtraArgs`."""
    if isinstance(grads, Kept):
      way = self.way(state, params, extra_args, side_by_side=False)
      weights = zero_inactive(grads.mask, grads.weights)
      return way.weighted(grads.passes, weights, grads.mask), state
    if not isinstance(grads, (Passes, MicrobatchPasses)):
      return self.update(grads, state, params, **extra_args)
    side_by_side = grads.goes_side_by_side
    way = self.way(state, params, extra_args, side_by_side=side_by_side)
    if way.measures == STACKED:
      return self.update(grads.stacked(), state, params, **extra_args)
    names = _stacked.named_axes(extra_args.get("axis_name"), params)
    with _stacked.sharded_over(names):
      return _by_passes(self.update, way, grads, state, params, extra_args)


def way_of(
  measures: str, state: Any, params: Any, side_by_side: bool, **options: Any
) -> Way:
  """Returns the cheapest way to serve a method.

  Args:
    measures: What the method measures, as in :class:`Method`, or ``STACKED``.
    state: State of the frame.
    params: The parameters.
    side_by_side: Whether passes can go side by side.
    **options: ``size``, ``skips_zero``, ``dtype`` and ``own_heads`` of the
      :class:`Way`.
  """
  way = Way(measures, state.trunk, **options)
  stacked = way._replace(measures=STACKED)
  if state.groups is not None:  # each group would need a pass of its own
    return stacked
  if measures in ("nothing", "sketches", STACKED):
    return way
  trunk = _stacked.restrict(params, state.trunk)
  if _size(trunk) <= LARGEST_PART * _size(params):
    return way._replace(measures="gradients")
  return way if measures == "gramian" and side_by_side else stacked


def _size(tree: Any) -> int:
  return sum(x.size for x in jax.tree.leaves(tree))


def _by_passes(update, way, passes, state, params, extra_args):
  """Measures, chooses weights, and takes a pass with them."""
  given = extra_args.get("task_mask")
  check_same_names({"losses": passes.losses, "task_mask": given})
  mask = as_task_mask(given, passes.num_tasks)
  specs = _stacked.specs_of(extra_args.get("param_specs"), way.trunk)
  measured = _measure(way, passes, specs)

  def choose(measured):
    return update(measured, state, params, **extra_args)[1]

  after = choose(measured)
  gradient = way.weighted(passes, after.weights, mask)
  good = _stacked.all_finite((gradient, after.weights))
  if way.measures == "nothing" and way.skips_zero:
    # The gradient may be zero too, as that of a task without labels in this batch.
    losses = as_task_values("losses", passes.losses, passes.num_tasks, way.dtype)
    good &= ~jnp.any(mask & (losses == 0))

  def again(result):
    """Takes the passes apart. The choice stands if that does not change it."""
    weights = result[1].weights
    gradient, found = _apart(way, passes, weights, mask, measured)
    after = choose(found)
    return jnp.all(after.weights == weights), (gradient, after)

  return until_good(good, (gradient, after), again)


def _measure(way, passes, specs):
  """Measures what the method needs of the gradients."""
  everyone = jnp.ones((passes.num_tasks,), bool)
  names = _stacked.named_axes(None, passes.params)
  if way.measures == "nothing":
    return Measured(everyone, ~everyone)
  if way.measures == "gradients":

    def restrict(gradient):
      return _stacked.restrict(gradient, way.trunk)

    return Measured(everyone, grads=passes.linear(restrict))
  if way.measures == "sketches":

    def sketch(gradient):
      trunk = jax.tree.leaves(_stacked.restrict(gradient, way.trunk))
      return _sketch(trunk, way.size, way.dtype, specs, names)

    return Measured(everyone, sketches=passes.linear(sketch))

  def products(grads):
    trunk = jax.tree.leaves(_stacked.restrict(grads, way.trunk))
    return _gramian(trunk, way.dtype, names)

  gramian, zero = passes.side_by_side(products)
  return Measured(everyone, zero, gramian=gramian)


def _apart(way, passes, weights, mask, measured):
  """Takes each pass by itself, so that a task that is not finite spoils no other.

  Returns:
    The combined gradient for weights [K] and the tasks of ``mask``, [K]; and
    ``measured`` with the tasks that turned out to be finite and to have a gradient of
    zero.
  """
  tasks = passes.num_tasks
  names = _stacked.named_axes(None, passes.params)

  def finite_and_zero(gradient):
    trunk = _stacked.restrict(gradient, way.trunk)
    seen = gradient if way.measures == "nothing" else trunk
    every, seen = jax.tree.leaves(gradient), jax.tree.leaves(seen)
    return _finite_and_zero(every, seen, way.dtype, names)

  def add(carry, k, gradient):
    total, finite, zero = carry
    one_finite, one_zero = finite_and_zero(gradient)
    head = (mask[k] & one_finite).astype(weights.dtype)

    def add_to(t, g, in_trunk):
      w = weights[k] if in_trunk else head
      return t + jnp.where(w != 0, w * g.astype(t.dtype), 0)

    total = jax.tree.map(add_to, total, gradient, weighted)
    return total, finite.at[k].set(one_finite), zero.at[k].set(one_zero)

  trunk = _stacked.trunk_of(passes.params, way.trunk)
  weighted = jax.tree.map(lambda in_trunk: in_trunk or not way.own_heads, trunk)
  none = jnp.zeros((tasks,), bool)
  zeros = jax.tree.map(
    lambda p: jnp.zeros_like(p, _stacked.compute_dtype(p)), passes.params
  )
  start = (zeros, none, none)
  if way.measures == "gramian" and passes.apart:
    gramian, (total, finite, zero) = _gramian_apart(way, passes, add, start)
    found = measured._replace(finite=finite, zero=zero, gramian=gramian)
  else:
    total, finite, zero = passes.fold(add, start)
    found = measured._replace(finite=finite)
    if way.measures == "nothing":
      found = found._replace(zero=zero)
  total = jax.tree.map(lambda t, p: t.astype(jnp.result_type(p)), total, passes.params)
  return total, found


def _gramian_apart(way, passes, add, start):
  """Multiplies gradients that are taken again for each pair, so that two exist at once.

  Passes that go through the layers side by side multiply the derivatives of a loss that
  is not finite by 0, which is NaN.
  """
  tasks = passes.num_tasks

  def trunk(gradient):
    restricted = _stacked.restrict(gradient, way.trunk)
    return jax.tree.map(lambda x: x[None], restricted)

  def multiply(n, passes, carry):
    held, gramian, result = carry
    i, j = n // (tasks + 1), n % (tasks + 1) - 1
    begins = j < 0
    gradient = passes.gradient(jnp.where(begins, i, j))
    held = jax.tree.map(lambda g, h: jnp.where(begins, g, h), gradient, held)
    result = jax.lax.cond(begins, lambda: add(result, i, gradient), lambda: result)
    product = _stacked.gramian(trunk(held), way.dtype, trunk(gradient))[0, 0]
    return held, gramian.at[i, j].set(product), result  # the diagonal is set last

  first = (passes.params, jnp.zeros((tasks, tasks), way.dtype), start)

  def turn(n, carry):
    return passes.aside(functools.partial(multiply, n), carry)

  return jax.lax.fori_loop(0, tasks * (tasks + 1), turn, first)[1:]


# These are compiled once, so that a step without `jax.jit` around it is fast.
_compiled = functools.partial(jax.jit, inline=True)


@functools.partial(_compiled, static_argnames=("size", "dtype", "specs", "axis_names"))
def _sketch(leaves, size, dtype, specs, axis_names):
  """Sketches one gradient, [size]."""
  with _stacked.sharded_over(axis_names):
    return _stacked.sketch([x[None] for x in leaves], size, dtype, specs)[0]


@functools.partial(_compiled, static_argnames=("dtype", "axis_names"))
def _gramian(leaves, dtype, axis_names):
  """Measures the Gramian [K, K], and which gradients are zero, [K].

  Each large array is reduced by itself, so that it can be forgotten with its layer.
  """
  parts = [[x] for x in leaves if x[0].size > SMALL]
  if small := [x for x in leaves if x[0].size <= SMALL]:
    parts.append(small)
  with _stacked.sharded_over(axis_names):
    found = [_stacked.gramian_and_largest(part, dtype) for part in parts]
  products, largest = zip(*found, strict=True)
  return _stacked.add(products), functools.reduce(jnp.maximum, largest) == 0


@functools.partial(_compiled, static_argnames=("dtype", "axis_names"))
def _finite_and_zero(leaves, seen, dtype, axis_names):
  """Tells whether one gradient is finite, [], and whether a part of it is zero, []."""

  def one(arrays):
    return [x[None] for x in arrays]

  with _stacked.sharded_over(axis_names):
    finite = _stacked.finite(one(leaves), 1, dtype)[0]
    zero = _stacked.zero(one(seen), dtype)[0]
  return finite, zero
