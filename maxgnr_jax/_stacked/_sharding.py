"""Sums over parameters of which each device may hold a part only.

What a method needs to know of K×D numbers is K-sized. Here each device adds up what it
holds, and only these sums travel: no gradient does. There are three ways to get there:

- inside :func:`jax.shard_map`, where the caller names the axes over which parameters
  are sharded;
- under a mesh of explicit axes the arrays' types say how they are sharded;
- under automatic ones the compiler knows, and asks.
"""

import contextvars
import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jax.experimental.custom_partitioning import (
  SdyShardingRule,
  custom_partitioning,
)
from jax.flatten_util import ravel_pytree
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

Leaves = Sequence[tuple[jax.Array, ...]]

_axis_names: contextvars.ContextVar[tuple[str, ...]] = contextvars.ContextVar(
  "axis_names", default=()
)


class Reduce:
  """Adds up over parameters, and over the devices that hold parts of them.

  Args:
    axes: For each leaf the mesh axes over which it is sharded.
  """

  def __init__(self, axes: Sequence[Sequence[str]]):
    self.axes = [tuple(names) for names in axes]
    self.all_axes = tuple(sorted(set(itertools.chain(*self.axes))))

  def largest(self, values: jax.Array) -> jax.Array:
    """Elementwise over the devices."""
    return jax.lax.pmax(values, self.all_axes) if self.all_axes else values

  def sum(self, sums: Callable[[Leaves], Any], leaves: Leaves) -> Any:
    """``sums`` of all leaves, where ``sums`` of some is what they add to the result."""
    if not self.all_axes:
      return sums(leaves)
    groups: dict[tuple[str, ...], list] = {}
    for axes, arrays in zip(self.axes, leaves, strict=True):
      groups.setdefault(axes, []).append(arrays)
    parts = []
    for axes, group in groups.items():
      # Of devices that hold the same numbers one counts.
      first = jnp.ones((), bool)
      for name in set(self.all_axes) - set(axes):
        first &= jax.lax.axis_index(name) == 0
      parts.append(jax.tree.map(lambda x, f=first: jnp.where(f, x, 0), sums(group)))
    local = jax.tree.map(lambda *x: sum(x[1:], x[0]), *parts)
    flat, unflatten = ravel_pytree(local)
    return unflatten(jax.lax.psum(flat, self.all_axes))


def takes_axis_name(update: Callable[..., Any]) -> Callable[..., Any]:
  """Adds to an ``update`` the argument ``axis_name``.

  With it all that is traced in the update knows over which axes of the
  :func:`jax.shard_map` around it parameters are sharded.
  """

  @functools.wraps(update)
  def with_axis_name(grads, state, params=None, *, axis_name=None, **extra_args):
    if axis_name is None:  # perhaps an aggregator within another
      return update(grads, state, params, **extra_args)
    token = _axis_names.set(_check_axis_name(axis_name, grads))
    try:
      return update(grads, state, params, **extra_args)
    finally:
      _axis_names.reset(token)

  return with_axis_name


def _check_axis_name(axis_name: Any, grads: Any) -> tuple[str, ...]:
  names = (axis_name,) if isinstance(axis_name, str) else tuple(axis_name)
  manual = jax.sharding.get_abstract_mesh().manual_axes
  for name in names:
    if name not in manual:
      raise ValueError(
        "`axis_name` must name axes of the `jax.shard_map` around the update over "
        f"which parameters are sharded, got {name!r} where there are {tuple(manual)}. "
        "Under `jax.jit` leave it out: shardings are found there."
      )
  varying = frozenset().union(*map(_varying, jax.tree.leaves(grads)))
  if not varying.intersection(names):
    raise ValueError(
      f"`axis_name` is {names}, but no gradient differs between the devices of these "
      "axes. If parameters are sharded over them leave `check_vma` of `jax.shard_map` "
      "on, which tells sharded parameters from others; if none is, leave `axis_name` "
      "out."
    )
  return names


def over_parameters(fun: Callable[..., Any], leaves: Leaves, *small: jax.Array) -> Any:
  """``fun(reduce, leaves, *small)``, wherever the parameters' numbers are.

  Args:
    fun: Makes K-sized arrays, with a :class:`Reduce`, of the numbers that the device
      holds. It must not refer to other arrays.
    leaves: Of each parameter stacked arrays, [K, *shape], sharded alike.
    *small: K-sized arrays, the same on every device.

  Returns:
    What ``fun`` returns, the same on every device.
  """
  leaves = [tuple(arrays) for arrays in leaves]
  if names := _axis_names.get():
    varying = [frozenset().union(*map(_varying, arrays)) for arrays in leaves]
    axes = [[name for name in names if name in of_leaf] for of_leaf in varying]
    return fun(Reduce(axes), leaves, *small)
  mesh = jax.typeof(leaves[0][0]).sharding.mesh
  types = () if mesh.empty else mesh.axis_types
  if AxisType.Explicit in types:
    return _explicit(fun, mesh, leaves, small)
  if AxisType.Manual in types or jax.device_count() == 1:
    return fun(Reduce([()] * len(leaves)), leaves, *small)
  return _automatic(fun, leaves, small)


def _varying(x: jax.Array) -> frozenset[str]:
  """The axes of a :func:`jax.shard_map` over which an array differs."""
  kind = jax.typeof(x)
  return (
    kind.manual_axis_type.varying if hasattr(kind, "manual_axis_type") else kind.vma
  )


def _explicit(fun, mesh, leaves, small):
  specs = [P(None, *jax.typeof(arrays[0]).sharding.spec[1:]) for arrays in leaves]
  alike = [
    tuple(NamedSharding(mesh, spec) for _ in arrays)
    for spec, arrays in zip(specs, leaves, strict=True)
  ]
  reduce = Reduce([_names(spec) for spec in specs])
  return jax.shard_map(
    lambda leaves, small: fun(reduce, leaves, *small),
    mesh=mesh,
    in_specs=(jax.tree.map(lambda sharding: sharding.spec, alike), P()),
    out_specs=P(),
    check_vma=False,
  )(jax.tree.map(jax.sharding.reshard, leaves, alike), small)


def _automatic(fun, leaves, small):
  whole = Reduce([()] * len(leaves))

  def plain(leaves, small):
    return fun(whole, leaves, *small)

  asked = custom_partitioning(plain)
  asked.def_partition(
    partition=lambda *args: _partition(fun, *args),
    infer_sharding_from_operands=lambda mesh, args, result: jax.tree.map(
      lambda _: NamedSharding(mesh, P()), result
    ),
    sharding_rule=_rule,
  )
  batchable = custom_vmap(asked)

  @batchable.def_vmap
  def _(axis_size, batched, leaves, small):
    in_axes = jax.tree.map(lambda b: 0 if b else None, batched)
    result = jax.vmap(plain, in_axes, axis_size=axis_size)(leaves, small)
    return result, jax.tree.map(lambda _: True, result)

  return batchable(leaves, small)


def _partition(fun, mesh, args, result):
  """What each device does, given how the compiler wants to shard the arguments."""
  leaves, small = args
  everywhere = NamedSharding(mesh, P())
  specs = [
    P(None, *arrays[0].sharding.spec[1:])
    if isinstance(arrays[0].sharding, NamedSharding)
    else P()
    for arrays in leaves
  ]
  reduce = Reduce([_names(spec) for spec in specs])

  def local(leaves, small):
    return fun(reduce, leaves, *small)

  shardings = (
    [
      tuple(NamedSharding(mesh, spec) for _ in arrays)
      for spec, arrays in zip(specs, leaves, strict=True)
    ],
    jax.tree.map(lambda _: everywhere, small),
  )
  return mesh, local, jax.tree.map(lambda _: everywhere, result), shardings


def _rule(mesh, operands, results):
  """Says that nothing is asked of how operands are sharded; results are not."""
  del mesh
  number = itertools.count()

  def mapping(values):
    return tuple(
      tuple(f"f{next(number)}" for _ in range(value.rank)) for value in values
    )

  return SdyShardingRule(
    operand_mappings=mapping(operands), result_mappings=mapping(results)
  )


def _names(spec: P) -> tuple[str, ...]:
  """The mesh axes in a partition spec."""
  parts = [(part,) if isinstance(part, str) else part or () for part in spec]
  return tuple(sorted(itertools.chain(*parts)))
