"""Stacked pytrees: the K tasks on the leading axis of every leaf."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp


def resolve(given: Any, params: Any) -> Any:
  """Returns a pytree that was given as such, or as a function of the parameters."""
  return given(params) if _is_function(given) else given


def _is_function(given: Any) -> bool:
  """Tells whether to call what was given, by the rule of :func:`optax.masked`.

  A pytree of bools or labels may be something to call as well, such as an Equinox
  module. A function has only leaves that can be called: often itself, or none at all.
  """
  return callable(given) and all(map(callable, jax.tree.leaves(given)))


def how_to_call(given: Any) -> str:
  """Returns what to add to an error if :func:`resolve` did not call a callable."""
  if not callable(given) or _is_function(given):
    return ""
  return (
    f" The {type(given).__name__} can be called, but was read as a pytree, because not "
    "all its leaves can be called. To have it called, wrap it in a lambda."
  )


def zeros(params: Any, num_tasks: int, dtype: Any | None) -> Any:
  """Makes a stacked pytree of zeros, ``[num_tasks, *param.shape]`` in every leaf.

  Args:
    params: Pytree of arrays, or of their shapes. Zeros take the arrays' sharding.
    num_tasks: K.
    dtype: Dtype of the zeros; None for each parameter's own.
  """

  def leaf(p):
    own = jnp.result_type(p) if dtype is None else dtype
    shape = (num_tasks, *jnp.shape(p))
    if isinstance(p, jax.ShapeDtypeStruct):
      return jnp.zeros(shape, own)
    return jnp.broadcast_to(jnp.zeros_like(p, own), shape)  # sharded as p

  return jax.tree.map(leaf, params)


def stack(trees: Sequence[Any]) -> Any:
  """Stacks pytrees of the same structure on a new leading axis."""
  return jax.tree.map(lambda *rows: jnp.stack(rows), *trees)


def add(terms: Sequence[Any] | jax.Array) -> Any:
  """Adds up arrays, or pytrees of the same structure, from the first to the last.

  An array's terms are its rows. XLA fuses these additions with what follows, which it
  does not do with a sum over an axis.
  """
  return functools.reduce(functools.partial(jax.tree.map, jnp.add), list(terms))


def one_task(stacked: Any) -> Any:
  """Returns the shapes and dtypes of one task's part of a stacked pytree."""
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), stacked)


def compute_dtype(tree: Any) -> Any:
  """Returns the dtype to compute in: float64 if any array has it, else float32."""
  wide = any(jnp.result_type(x) == jnp.float64 for x in jax.tree.leaves(tree))
  return jnp.float64 if wide else jnp.float32
