"""Checks of stacked gradients that raise when the step is traced."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

HOW_TO_STACK = (
  "Stack the gradients of the K task losses on a leading axis with "
  "`maxgnr_jax.value_and_task_grads(losses)(params)`, "
  "`jax.vmap(jax.grad(loss), in_axes=(None, 0))(params, tasks)` or "
  "`jax.jacrev(losses)(params)` of a vector of losses. To stack a list of K gradients, "
  "use `jax.tree.map(lambda *g: jnp.stack(g), *grads)`."
)


def first_not_floating(tree: Any) -> tuple[str, str] | None:
  """Returns the place of the first leaf that is not real floating point, and its kind.

  The kind is a dtype, as in "dtype int32", or for a leaf that is no array its type, as
  in "type function". None if every leaf is real floating point.
  """
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    dtype = _dtype(leaf)
    if dtype is None:
      return _leaf_at(path), f"type {type(leaf).__name__}"
    if not jnp.issubdtype(dtype, jnp.floating):
      return _leaf_at(path), f"dtype {dtype}"
  return None


def _dtype(leaf: Any) -> Any:
  """Returns the dtype of an array or a number; None for anything else."""
  if isinstance(leaf, (str, bytes, type, np.dtype)):
    return None  # It may name a dtype, but holds no number.
  try:
    return jnp.result_type(leaf)
  except TypeError:
    return None


def check_floating(tree: Any, what: str) -> None:
  """Raises unless every leaf of ``tree`` is a real floating-point array.

  Args:
    tree: Pytree of arrays.
    what: What they are, for the message, such as "Gradients".
  """
  if wrong := first_not_floating(tree):
    place, kind = wrong
    raise TypeError(
      f"{what} must be real floating-point arrays, got {place} of {kind}. Keep "
      "everything else out of the optimiser, with `optax.masked`, `optax.partition`, "
      "the `wrt` filter of `nnx.Optimizer` or, for a whole Equinox model, "
      "`equinox.filter(model, equinox.is_inexact_array)`."
    )


def count_tasks(grads: Any, shapes: Any, what: str) -> int:
  """Returns K; raises unless every gradient is ``[K, *shape]`` with the same K.

  Args:
    grads: Pytree of gradients, with at least one array.
    shapes: Pytree of the same structure: arrays, or shapes, like one task's gradient.
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
      f"tasks, got {_leaf_at(first)} of shape {first_shape}, the shape of the "
      f"parameter itself. {HOW_TO_STACK}"
    )
  stacked = [(path, shape) for path, shape, plain in pairs if _is_stacked(shape, plain)]
  for path, shape, plain in pairs:
    if not _is_stacked(shape, plain):
      others = ""
      if shape == plain and stacked:
        others = f" Others are stacked, such as {_leaf_at(stacked[0][0])} of shape "
        others += f"{stacked[0][1]}; this one is not."
      raise ValueError(
        "The gradients must be of shape [K, *param.shape], got "
        f"{_leaf_at(path)} of shape {shape} for param.shape {plain} of {what}.{others} "
        f"{HOW_TO_STACK}"
      )
    if shape[0] != first_shape[0]:
      raise ValueError(
        "All gradients must share one leading axis, the K tasks, got "
        f"{_leaf_at(first)} of shape {first_shape} and {_leaf_at(path)} of shape "
        f"{shape}. {HOW_TO_STACK}"
      )
  if first_shape[0] == 0:
    raise ValueError(
      f"There must be at least one task, got {_leaf_at(first)} of shape {first_shape}. "
      f"{HOW_TO_STACK}"
    )
  return first_shape[0]


def _is_stacked(shape: tuple[int, ...], plain: tuple[int, ...]) -> bool:
  """Tells whether a shape is ``plain`` with one more axis in front."""
  return len(shape) == len(plain) + 1 and shape[1:] == plain


def check_same_shapes(grads: Any, others: Any, name: str) -> None:
  """Raises unless ``others`` are arrays of the structure and shapes of ``grads``.

  Args:
    grads: Stacked pytree.
    others: An extra argument of ``update``.
    name: Name of the extra argument, for the message.
  """
  check_floating(grads, "Gradients")
  check_floating(others, f"`{name}`")
  structures: list[Any] = [jax.tree.structure(tree) for tree in (grads, others)]
  shapes = [list(map(jnp.shape, jax.tree.leaves(tree))) for tree in (grads, others)]
  if structures[0] != structures[1] or shapes[0] != shapes[1]:
    raise ValueError(
      f"`{name}` must be stacked gradients of the same tasks and parameters as the "
      f"gradients, {structures[0]} with shapes {shapes[0]}, got {structures[1]} with "
      f"shapes {shapes[1]}. Compute both from the same losses and parameters."
    )


def check_same_tasks(num_tasks: int, expected: int) -> None:
  """Raises unless there are gradients for as many tasks as the state has."""
  if num_tasks != expected:
    raise ValueError(
      f"Got gradients for {num_tasks} tasks, but the state was initialised for "
      f"{expected}. Pass one gradient per task, or make a new transformation and a new "
      f"state for {num_tasks} tasks."
    )


def _leaf_at(path: Any) -> str:
  """Names a leaf by its place in the pytree."""
  return f"the leaf {jax.tree_util.keystr(path) or 'at the root'}"
