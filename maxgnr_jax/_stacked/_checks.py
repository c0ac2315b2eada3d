"""Errors about stacked gradients, raised at trace time."""

from typing import Any

import jax
import jax.numpy as jnp

HOW_TO_STACK = (
  "Stack the gradients of the K task losses on a leading axis with "
  "`maxgnr_jax.value_and_task_grads(losses)(params)`, "
  "`jax.vmap(jax.grad(loss), in_axes=(None, 0))(params, tasks)` or "
  "`jax.jacrev(losses)(params)` of a vector of losses; or, of K gradients, "
  "`jax.tree.map(lambda *g: jnp.stack(g), *grads)`."
)


def check_floating(tree: Any, what: str) -> None:
  """Raises unless every array of ``tree`` is real floating point."""
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    dtype = jnp.result_type(leaf)
    if not jnp.issubdtype(dtype, jnp.floating):
      raise TypeError(
        f"{what} must be real floating-point arrays, got {_where(path)} of dtype "
        f"{dtype}. Keep other arrays out of the optimiser, with `optax.masked`, "
        "`optax.partition` or the `wrt` filter of `nnx.Optimizer`."
      )


def count_tasks(grads: Any, shapes: Any, what: str) -> int:
  """Returns K; raises unless every gradient is ``[K, *shape]`` with one K.

  Args:
    grads: Pytree of gradients, with at least one array.
    shapes: Pytree like ``grads``, whose leaves have the shapes of a single task's
      gradient.
    what: Where ``shapes`` come from, for the message.
  """
  expected = jax.tree.leaves(shapes)
  treedef: Any = jax.tree.structure(shapes)
  if jax.tree.structure(grads) != treedef:
    raise ValueError(
      f"The gradients must be a pytree like that of {what}, {treedef}, got "
      f"{jax.tree.structure(grads)}. Pass the state that this transformation's `init` "
      "made for these parameters, and gradients with respect to the same parameters. "
      f"{HOW_TO_STACK}"
    )
  leaves = jax.tree_util.tree_leaves_with_path(grads)
  pairs = [
    (path, jnp.shape(g), getattr(s, "shape", ()))
    for (path, g), s in zip(leaves, expected, strict=True)
  ]
  first, first_shape, _ = pairs[0]
  if all(shape == plain for _, shape, plain in pairs):
    raise ValueError(
      "The gradients are not stacked: each must be of shape [K, *param.shape] for K "
      f"tasks, got {_where(first)} of shape {first_shape}, the shape of the parameter "
      f"itself. {HOW_TO_STACK}"
    )
  for path, shape, plain in pairs:
    if len(shape) != len(plain) + 1 or shape[1:] != plain:
      raise ValueError(
        "The gradients must be of shape [K, *param.shape], got "
        f"{_where(path)} of shape {shape} for param.shape {plain} of {what}. "
        f"{HOW_TO_STACK}"
      )
    if shape[0] != first_shape[0]:
      raise ValueError(
        "All gradients must share one leading axis, the K tasks, got "
        f"{_where(first)} of shape {first_shape} and {_where(path)} of shape {shape}. "
        f"{HOW_TO_STACK}"
      )
  if first_shape[0] == 0:
    raise ValueError(
      f"There must be at least one task, got {_where(first)} of shape {first_shape}."
    )
  return first_shape[0]


def check_same_shapes(grads: Any, others: Any, name: str) -> None:
  """Raises unless ``others``, an extra argument, is like the stacked gradients."""
  structures: list[Any] = [jax.tree.structure(tree) for tree in (grads, others)]
  shapes = [list(map(jnp.shape, jax.tree.leaves(tree))) for tree in (grads, others)]
  if structures[0] != structures[1] or shapes[0] != shapes[1]:
    raise ValueError(
      f"`{name}` must be stacked gradients for the same tasks and parameters as the "
      f"gradients, {structures[0]} with shapes {shapes[0]}, got {structures[1]} with "
      f"shapes {shapes[1]}."
    )


def check_same_tasks(num_tasks: int, expected: int) -> None:
  """Raises unless there are gradients for as many tasks as the state has."""
  if num_tasks != expected:
    raise ValueError(
      f"Got gradients for {num_tasks} tasks, but the state was initialised for "
      f"{expected}. Pass one gradient per task, or make a new transformation and a new "
      f"state for {num_tasks} tasks."
    )


def _where(path: Any) -> str:
  return f"the leaf {jax.tree_util.keystr(path) or 'at the root'}"
