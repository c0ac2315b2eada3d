"""Groups of parameters, each of which gets task weights of its own."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

from maxgnr_jax._stacked._trunk import is_masked

Labels = str | Any | Callable[[Any], Any] | None


class Group(NamedTuple):
  """Stands for a parameter in a state and says which group it belongs to.

  Attributes:
    label: A dict whose only key is the group's name. Its value is an empty tuple: keys
      are part of a pytree's structure, so that the name is known at trace time.
  """

  label: dict[str, tuple[()]]


def assign_groups(groups: Labels, params: Any, trunk: Any) -> Any:
  """Returns a pytree like ``params`` of :class:`Group`, or None without groups.

  Args:
    groups: As in :func:`maxgnr_jax.maxgnr`.
    params: The parameters.
    trunk: The parameters restricted to the trunk.

  Raises:
    TypeError: for labels that are not strings.
    ValueError: for labels that are not like the parameters, and for a group without
      parameters of the trunk.
  """
  if groups is None:
    return None
  labels = label(groups, params)
  names = sorted(set(jax.tree.leaves(labels)))
  for name, part in zip(names, split(labels, trunk), strict=True):
    if not jax.tree.leaves(part):
      raise ValueError(
        f"Every group must have parameters that are measured, got {name!r}, of which "
        "`shared` selects none. Give these the label of another group, whose weights "
        "they then take."
      )
  return jax.tree.map(lambda name: Group({name: ()}), labels)


def labels_of(assigned: Any) -> Any:
  """Returns the pytree of labels that :func:`assign_groups` recorded."""
  return jax.tree.map(
    lambda group: next(iter(group.label)),
    assigned,
    is_leaf=lambda node: isinstance(node, Group),
  )


def label(groups: Labels, params: Any) -> Any:
  """Returns a pytree like ``params`` with the label of each parameter's group.

  Args:
    groups: As in :func:`maxgnr_jax.maxgnr`; not None.
    params: Pytree of arrays, or of their shapes.
  """
  if groups in ("layer", "parameter"):
    depth = 1 if groups == "layer" else 0

    def place(path, _):
      kept = path[: len(path) - depth]
      return jax.tree_util.keystr(kept, simple=True, separator="/")

    return jax.tree_util.tree_map_with_path(place, params)
  if isinstance(groups, str):
    raise ValueError(
      f'`groups` must be "layer", "parameter" or a pytree of labels, got {groups!r}.'
    )
  labels = groups(params) if callable(groups) else groups

  def everywhere(one, part):
    if not isinstance(one, str):
      raise TypeError(f"`groups` must hold strings, the labels, got {one!r}.")
    return jax.tree.map(lambda _: one, part)

  try:
    return jax.tree.map(everywhere, labels, params)
  except ValueError as error:
    raise ValueError(
      "`groups` must be a pytree of labels like the parameters, a prefix of it, or a "
      f"function from the parameters to one, got {jax.tree.structure(labels)} for "
      f"parameters {jax.tree.structure(params)}."
    ) from error


def group_names(groups: Labels, params: Any) -> list[str]:
  """Returns the names of the groups, in the order of the state's first axis.

  Args:
    groups: The argument ``groups`` of :func:`maxgnr` or another aggregator.
    params: Pytree of parameters, or of their shapes.

  Returns:
    The labels, sorted.

  Raises:
    TypeError: for labels that are not strings.
    ValueError: for labels that are not like the parameters.

  Example:
    >>> import jax.numpy as jnp
    >>> from maxgnr_jax import group_names
    >>> dense = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    >>> group_names("layer", {"first": dense, "second": dense})
    ['first', 'second']
  """
  return sorted(set(jax.tree.leaves(label(groups, params))))


def split(labels: Any, tree: Any) -> list[Any]:
  """Splits a pytree into its groups, in the order of their names.

  Args:
    labels: Pytree of labels like the parameters, or None for a single group.
    tree: Pytree like the parameters.

  Returns:
    For each group ``tree`` with :class:`optax.MaskedNode` in place of the other
    groups' parameters.
  """
  if labels is None:
    return [tree]

  def part(name):
    return jax.tree.map(
      lambda x, own: x if own == name else optax.MaskedNode(),
      tree,
      labels,
      is_leaf=is_masked,
    )

  return [part(name) for name in sorted(set(jax.tree.leaves(labels)))]


def merge(parts: list[Any]) -> Any:
  """Merges pytrees each of which has arrays where all others are masked."""
  if len(parts) == 1:
    return parts[0]

  def own(*candidates):
    found = [x for x in candidates if not is_masked(x)]
    return found[0] if found else candidates[0]

  return jax.tree.map(own, *parts, is_leaf=is_masked)
