"""Sums over parameters that are sharded over devices.

Methods reduce K×D gradients to a few numbers per task. Each device adds up the shards
that it holds, and only these sums are exchanged between devices, never gradients. How
parameters are sharded becomes known in one of three ways:

- inside :func:`jax.shard_map` the caller names the axes over which they are sharded;
- under a mesh of explicit axes the arrays' types say so;
- under a mesh of automatic axes only the compiler knows it, and partitions the sums.
"""

import contextlib
import contextvars
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from maxgnr_jax._stacked._parts import sample_of_parts, sum_in_parts
from maxgnr_jax._stacked._tree import add

# For each parameter a tuple of stacked arrays, [K, *shape].
Leaves = Sequence[tuple[jax.Array, ...]]

# The axes that the caller named, while an `update` is traced.
_axis_names: contextvars.ContextVar[tuple[str, ...]] = contextvars.ContextVar(
  "axis_names", default=()
)


class Shard(NamedTuple):
  """Where in a parameter the numbers lie that a device holds.

  Attributes:
    shape: The shape of the whole parameter.
    starts: The index of the device's first number on each axis; None if the device
      holds the whole parameter.
  """

  shape: tuple[int, ...]
  starts: tuple[jax.Array, ...] | None = None


class Reduce:
  """Reduces over parameters and over the devices that hold their shards.

  Args:
    axes: For each parameter the names of the mesh axes over which it is sharded.
    devices: Over how many devices the compiler may have sharded parameters in ways
      that are unknown here.
    specs: For each parameter how it is sharded, as far as that is known.
  """

  def __init__(
    self,
    axes: Sequence[Sequence[str]],
    devices: int = 1,
    specs: Sequence[P] | None = None,
  ):
    self.axes = [tuple(names) for names in axes]
    self.all_axes = tuple(sorted(set(itertools.chain(*self.axes))))
    self.devices = devices
    self.specs = specs

  def shards(self, leaves: Leaves) -> list[Shard]:
    """Returns where in each parameter the numbers lie that this device holds.

    Raises:
      ValueError: where that is not known.
    """
    specs: Sequence[P | None] = self.specs or [None] * len(leaves)
    return [
      _shard(arrays[0].shape[1:], axes, spec)
      for arrays, axes, spec in zip(leaves, self.axes, specs, strict=True)
    ]

  def largest(self, values: jax.Array) -> jax.Array:
    """Returns the elementwise maximum over the devices, a constant for derivatives."""
    values = jax.lax.stop_gradient(values)
    return jax.lax.pmax(values, self.all_axes) if self.all_axes else values

  def sample(self, x: jax.Array, size: int) -> jax.Array:
    """Returns a sample of each task's numbers on this device, [K, *any shape].

    Args:
      x: A stacked array, [K, *shape].
      size: The sample has about this many numbers of each task.
    """
    if self.devices > 1:
      return sample_of_parts(x, size, self.devices)
    flat = x.reshape(x.shape[0], -1)
    return flat[:, :: -(-flat.shape[1] // size)]

  def sum(
    self,
    sums: Callable[[Sequence[Any]], Any],
    leaves: Sequence[Any],
    in_parts: bool = True,
  ) -> Any:
    """Sums over all parameters and devices.

    Args:
      sums: From a part of ``leaves`` to what it contributes: a pytree of arrays that
        are to be added.
      leaves: The shards that this device holds, each a tuple of arrays; without
        ``in_parts`` anything that ``sums`` can read.
      in_parts: Whether arrays that the compiler may have sharded are handed to ``sums``
        part by part.
    """
    if self.devices > 1 and in_parts:
      sums = functools.partial(sum_in_parts, sums, devices=self.devices)
    if not self.all_axes:
      return sums(leaves)
    groups: dict[tuple[str, ...], list] = {}
    for axes, arrays in zip(self.axes, leaves, strict=True):
      groups.setdefault(axes, []).append(arrays)
    parts = []
    for axes, group in groups.items():
      # Where several devices are replicas of the same shard, only one contributes.
      first = jnp.ones((), bool)
      for name in set(self.all_axes) - set(axes):
        first &= jax.lax.axis_index(name) == 0
      parts.append(jax.tree.map(lambda x, f=first: jnp.where(f, x, 0), sums(group)))
    flat, unflatten = ravel_pytree(add(parts))
    return unflatten(jax.lax.psum(flat, self.all_axes))


def named_axes(axis_name: Any, grads: Any) -> tuple[str, ...]:
  """Returns the axes of :func:`jax.shard_map` over which parameters are sharded.

  Args:
    axis_name: The argument of an ``update``: a name, a sequence of names, or None for
      those that an aggregator around this one has set.
    grads: Stacked pytree.

  Raises:
    ValueError: for a name that is no manual axis, and if all gradients are replicated
      over the axes.
  """
  if axis_name is None:
    return _axis_names.get()
  return _check_axis_name(axis_name, grads)


@contextlib.contextmanager
def sharded_over(names: tuple[str, ...]) -> Iterator[None]:
  """Lets :func:`over_parameters` know the axes over which parameters are sharded."""
  token = _axis_names.set(names)
  try:
    yield
  finally:
    _axis_names.reset(token)


def _check_axis_name(axis_name: Any, grads: Any) -> tuple[str, ...]:
  """Returns the axis names as a tuple; raises unless gradients are sharded over them.

  Raises:
    ValueError: for a name that is no manual axis, and if all gradients are replicated
      over the axes.
  """
  names = (axis_name,) if isinstance(axis_name, str) else tuple(axis_name)
  manual = jax.sharding.get_abstract_mesh().manual_axes
  for name in names:
    if name not in manual:
      raise ValueError(
        "`axis_name` must name axes of the `jax.shard_map` around the update over "
        f"which parameters are sharded, got {name!r} where there are {tuple(manual)}. "
        "Under `jax.jit` alone leave `axis_name` out: shardings are known there."
      )
  varying = frozenset().union(*map(_varying, jax.tree.leaves(grads)))
  if not varying.intersection(names):
    raise ValueError(
      "`axis_name` must name axes over which parameters are sharded, got "
      f"{names}, but every gradient is the same on all devices of these axes. If "
      "parameters are sharded over them, leave `check_vma` of `jax.shard_map` on: it "
      "tells sharded parameters from replicated ones. Otherwise leave `axis_name` out."
    )
  return names


def over_parameters(
  fun: Callable[..., Any],
  leaves: Leaves,
  *small: jax.Array,
  specs: Sequence[P] | None = None,
) -> Any:
  """Calls ``fun(reduce, leaves, *small)`` on each device with the shards it holds.

  Args:
    fun: Makes K-sized arrays from a :class:`Reduce`, by which it must sum over
      parameters, the leaves and the small arrays. It must not close over other arrays.
    leaves: For each parameter a tuple of stacked arrays, [K, *shape], all sharded in
      the same way. Parameters of size 0 are left out; if there are no others, ``fun``
      gets a single number per task, 0.
    *small: K-sized arrays, replicated on all devices.
    specs: For each parameter how it is sharded over named axes, without the axis of
      tasks; only for :meth:`Reduce.shards`, and for leaves none of which is of size 0.

  Returns:
    What ``fun`` returns, replicated on all devices.
  """
  whole = [tuple(arrays) for arrays in leaves]
  leaves = [arrays for arrays in whole if arrays[0].size]
  if not leaves:
    zeros = tuple(jnp.zeros((x.shape[0], 1), x.dtype) for x in whole[0])
    return fun(Reduce([()]), [zeros], *small)
  mesh = jax.typeof(leaves[0][0]).sharding.mesh
  types = () if mesh.empty else mesh.axis_types
  names = _axis_names.get()
  if AxisType.Explicit in types and not names:
    return _explicit(fun, mesh, leaves, small)
  # Where a `shard_map` is over some axes only, the others may be automatic.
  devices = jax.device_count() if not types or AxisType.Auto in types else 1
  varying = [frozenset().union(*map(_varying, arrays)) for arrays in leaves]
  axes = [[name for name in names if name in some] for some in varying]
  return fun(Reduce(axes, devices, specs), leaves, *small)


def _varying(x: jax.Array) -> frozenset[str]:
  """Returns the axes of a :func:`jax.shard_map` over which an array differs."""
  kind = jax.typeof(x)
  return (
    kind.manual_axis_type.varying if hasattr(kind, "manual_axis_type") else kind.vma
  )


def varying_like(x: jax.Array, others: Sequence[jax.Array]) -> jax.Array:
  """Lets an array differ over the devices over which others do, as loops require."""
  names = frozenset().union(*map(_varying, others)) - _varying(x)
  if not names:
    return x
  if hasattr(jax.lax, "pcast"):
    return jax.lax.pcast(x, tuple(names), to="varying")
  older: Any = jax.lax
  return older.pvary(x, tuple(names))


def _explicit(fun, mesh, leaves, small):
  """Calls ``fun`` under a mesh of explicit axes, by the shardings in arrays' types."""
  specs = [P(None, *jax.typeof(arrays[0]).sharding.spec[1:]) for arrays in leaves]
  shardings = [
    tuple(NamedSharding(mesh, spec) for _ in arrays)
    for spec, arrays in zip(specs, leaves, strict=True)
  ]
  parameter_specs = [P(*spec[1:]) for spec in specs]
  reduce = Reduce([_names(spec) for spec in specs], specs=parameter_specs)
  return jax.shard_map(
    lambda leaves, small: fun(reduce, leaves, *small),
    mesh=mesh,
    in_specs=(jax.tree.map(lambda sharding: sharding.spec, shardings), P()),
    out_specs=P(),
    check_vma=False,
  )(jax.tree.map(jax.sharding.reshard, leaves, shardings), small)


def _names(spec: P) -> tuple[str, ...]:
  """Returns the mesh axes in a partition spec, sorted."""
  return tuple(sorted(itertools.chain(*_names_by_axis(spec))))


def _names_by_axis(spec: P) -> list[tuple[str, ...]]:
  """Returns the mesh axes over which each axis of an array is sharded."""
  return [(part,) if isinstance(part, str) else tuple(part or ()) for part in spec]


def _shard(local: tuple[int, ...], axes: tuple[str, ...], spec: P | None) -> Shard:
  """Returns where in a parameter the numbers of a device lie.

  Args:
    local: The shape of what this device holds.
    axes: The mesh axes over which the parameter is sharded.
    spec: How it is sharded. Names of other mesh axes have no effect.

  Raises:
    ValueError: if the spec does not name all the axes.
  """
  if not axes:
    return Shard(local)
  if spec is None:
    raise ValueError(
      f"A gradient of shape {local} is sharded over the named axes {axes}. A sketch "
      "depends on where in the parameter each number lies: pass `param_specs=` to "
      "`update`, a pytree of PartitionSpec like the parameters."
    )
  parts = [[name for name in names if name in axes] for names in _names_by_axis(spec)]
  if len(parts) > len(local) or {*axes} != {*itertools.chain(*parts)}:
    raise ValueError(
      "`param_specs` must say over which axes each parameter is sharded, got "
      f"{spec} for a gradient that has the shape {local} on each device and differs "
      f"over the named axes {axes}."
    )
  shape, starts = list(local), [jnp.zeros((), jnp.uint32)] * len(local)
  for axis, names in enumerate(parts):
    if names:
      shape[axis] *= math.prod(map(jax.lax.axis_size, names))
      index = jax.lax.axis_index(tuple(names)).astype(jnp.uint32)
      starts[axis] = index * jnp.uint32(local[axis])
  return Shard(tuple(shape), tuple(starts))
