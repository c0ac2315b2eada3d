"""The order of tasks: that of their sorted names, whatever container holds them.

JAX sorts the keys of a dict, but keeps the order of an OrderedDict or a NamedTuple.
Here all containers are read in one order, so that values per task fit each other.
"""

import numbers
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.tree_util import FlattenedIndexKey, SequenceKey


def task_names(losses: Any) -> list[str]:
  """Returns the names of the tasks, in the order of weights and stacked gradients.

  Tasks are sorted by name in any container: text as text, numbers as numbers and before
  text. In nested containers the outer name counts first. Parts of a tuple or a list are
  named by their positions and keep their order.

  Args:
    losses: The K losses that :func:`value_and_task_grads` returns, a vector or a pytree
      of scalars, or their shapes.

  Returns:
    For a pytree the paths of its leaves, such as a dict's keys or a NamedTuple's
    fields; for a vector "0", "1" and so on.

  Example:
    >>> from collections import OrderedDict
    >>> from maxgnr_jax import task_names
    >>> task_names(OrderedDict(right=0.3, left=1.2))
    ['left', 'right']
  """
  if is_vector(losses):
    return [str(task) for task in range(losses.shape[0])]
  paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(losses)]
  return [
    jax.tree_util.keystr(paths[place], simple=True, separator="/")
    for place in _places(losses)
  ]


def is_vector(values: Any) -> bool:
  """Tells whether values per task are a vector, not a pytree of scalars."""
  return jax.tree_util.all_leaves([values]) and len(getattr(values, "shape", ())) == 1


def in_order(values: Any) -> list[Any]:
  """Returns the leaves of a pytree in the order of the tasks."""
  leaves = jax.tree.leaves(values)
  return [leaves[place] for place in _places(values)]


def from_order(parts: Sequence[Any], like: Any) -> Any:
  """Returns a pytree like ``like`` of values in the order of the tasks."""
  parts_by_place = dict(zip(_places(like), parts, strict=True))
  leaves = [parts_by_place[place] for place in range(len(parts))]
  return jax.tree.unflatten(jax.tree.structure(like), leaves)


def check_same_names(arguments: Mapping[str, Any]) -> None:
  """Raises unless arguments that name their tasks name the same ones.

  Vectors, tuples and lists do not: they are in the order of the stacked gradients.

  Args:
    arguments: Values per task, or None, by the names of the arguments.
  """
  known = [
    (argument, task_names(values), has_names(values))
    for argument, values in arguments.items()
    if values is not None
  ]
  known.sort(key=lambda item: not item[2])
  for argument, got, named in known[1:]:
    first, expected, _ = known[0]
    # Positions written as text are sorted as text, "10" before "2": refuse them too.
    if got != expected and (named or set(got) == set(expected)):
      missing = [name for name in expected if name not in got]
      unknown = [name for name in got if name not in expected]
      raise ValueError(
        f"`{argument}` must name the same tasks as `{first}` in the same order, "
        f"{expected}, got {got}: missing {missing}, unknown {unknown}. Give both the "
        "same names, or pass a vector in the order of `task_names(losses)`."
      )


def check_has_no_names(argument: str, values: Any) -> None:
  """Raises if values per task that are read by their positions have names."""
  if has_names(values):
    raise TypeError(
      f"`{argument}` must be a list or a vector in the order of the stacked gradients, "
      f"which `task_names(losses)` tells, got a {type(values).__name__} with the names "
      f"{task_names(values)}."
    )


def has_names(values: Any) -> bool:
  """Tells whether a pytree names its leaves, not only by their positions."""
  paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(values)]
  return not all(
    isinstance(entry, (SequenceKey, FlattenedIndexKey))
    for path in paths
    for entry in path
  )


def _places(values: Any) -> list[int]:
  """Returns which of ``jax.tree.leaves(values)`` belongs to each task."""
  paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(values)]
  ranks = [[_rank(_name(entry)) for entry in path] for path in paths]
  return sorted(range(len(ranks)), key=ranks.__getitem__)


def _name(entry: Any) -> Any:
  """Returns the key, field or position that an entry of a path stands for."""
  for attribute in ("key", "name", "idx"):
    if hasattr(entry, attribute):
      return getattr(entry, attribute)
  return str(entry)


def _rank(name: Any) -> tuple[int, Any]:
  """Returns what to sort a name by, so that any two can be compared.

  Names of one kind are sorted as JAX sorts the keys of a dict.
  """
  if isinstance(name, numbers.Real):
    return 0, name
  if isinstance(name, tuple):
    return 2, [_rank(part) for part in name]
  return 1, name if isinstance(name, str) else str(name)
