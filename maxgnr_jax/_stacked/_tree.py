"""Stacked pytrees: the K tasks on the leading axis of every leaf."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp


def zeros(params: Any, num_tasks: int, dtype: Any | None) -> Any:
  """Makes a stacked pytree of zeros, ``[num_tasks, *param.shape]`` in every leaf.

  Args:
    params: Pytree of arrays, whose sharding the zeros take, or of their shapes.
    num_tasks: K.
    dtype: Dtype of the zeros; None for that of each parameter.
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


def one_task(stacked: Any) -> Any:
  """Returns the shapes and dtypes of one task's part of a stacked pytree."""
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), stacked)


def compute_dtype(tree: Any) -> Any:
  """Returns the dtype to compute in: float32, or float64 where the tree holds any."""
  wide = any(jnp.result_type(x) == jnp.float64 for x in jax.tree.leaves(tree))
  return jnp.float64 if wide else jnp.float32
