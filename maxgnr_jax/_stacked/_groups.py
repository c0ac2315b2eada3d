"""Groups of parameters, each of which gets task weights of its own."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

from maxgnr_jax._stacked._tree import how_to_call, resolve
from maxgnr_jax._stacked._trunk import held_instead, is_masked

Labels = str | Any | Callable[[Any], Any] | None


class Group(NamedTuple):
  """Stands for a parameter in a state and names the group it belongs to.

  Attributes:
    label: A dict with the group's name as its only key and an empty tuple as the value.
      Keys are part of a pytree's structure, so that the name is known at trace time.
  """

  label: dict[str, tuple[()]]


def assign_groups(groups: Labels, params: Any, trunk: Any) -> Any:
  """Assigns each parameter to a group, in a form that a state can hold.

  Args:
    groups: As in :func:`maxgnr_jax.maxgnr`.
    params: Pytree of parameters.
    trunk: The parameters restricted to the trunk.

  Returns:
    Pytree like ``params`` with a :class:`Group` for each parameter; None without
    groups.

  Raises:
    TypeError: for labels that are not strings.
    ValueError: for labels that are not like the parameters, and for a group without
      parameters of the trunk, or only with arrays of size 0 beside others outside.
  """
  if groups is None:
    return None
  labels = label(groups, params)
  names = sorted(set(jax.tree.leaves(labels)))
  parts = zip(names, split(labels, trunk), split(labels, params), strict=True)
  for name, part, whole in parts:
    if got := held_instead(part, whole):
      raise ValueError(
        "Every group must have parameters of the trunk, where gradients are measured, "
        f"got {name!r}, of which `shared` selects {got}. Give its parameters the label "
        "of another group; they are then combined with that group's weights."
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

  Raises:
    TypeError: for labels that are not strings.
    ValueError: for labels that are not like the parameters.
  """
  if isinstance(groups, str) and groups in ("layer", "parameter"):
    depth = 1 if groups == "layer" else 0

    def name(path, _):
      kept = path[: len(path) - depth]
      return jax.tree_util.keystr(kept, simple=True, separator="/")

    return jax.tree_util.tree_map_with_path(name, params)
  if isinstance(groups, str):
    raise ValueError(
      f'`groups` must be "layer", "parameter" or a pytree of labels, got {groups!r}.'
    )
  labels = resolve(groups, params)

  def broadcast(label, part):
    if not isinstance(label, str):
      raise TypeError(
        f"`groups` must hold strings, the labels, got {label!r}.{how_to_call(groups)}"
      )
    return jax.tree.map(lambda _: label, part)

  try:
    return jax.tree.map(broadcast, labels, params)
  except ValueError as error:
    raise ValueError(
      "`groups` must be a pytree of labels like the parameters, a prefix of it, or a "
      f"function from the parameters to one, got {jax.tree.structure(labels)} for "
      f"parameters {jax.tree.structure(params)}.{how_to_call(groups)}"
    ) from error


def group_names(groups: Labels, params: Any) -> list[str]:
  """Returns the names of the groups, in the order of the state's first axis.

  Args:
    groups: The argument ``groups`` of :func:`maxgnr` or another aggregator, not None:
      "layer", "parameter", a pytree of labels like the parameters or a prefix of it, or
      a function from the parameters to one.
    params: Pytree of parameters, or of their shapes.

  Returns:
    The labels, sorted. With "parameter" they are paths such as ``"first/kernel"``; with
    "layer", paths without the last key.

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
  """Splits a pytree into one for each group, in the order of the groups' names.

  Args:
    labels: Pytree of labels like the parameters, or None for a single group.
    tree: Pytree like the parameters.

  Returns:
    A list of pytrees like ``tree``, each with :class:`optax.MaskedNode` in place of
    other groups' parameters.
  """
  if labels is None:
    return [tree]

  def part(name):
    return jax.tree.map(
      lambda x, label: x if label == name else optax.MaskedNode(),
      tree,
      labels,
      is_leaf=is_masked,
    )

  return [part(name) for name in sorted(set(jax.tree.leaves(labels)))]


def merge(parts: list[Any]) -> Any:
  """Merges pytrees, such as those that :func:`split` returns, into one.

  Each parameter is taken from the pytree that does not mask it.
  """
  if len(parts) == 1:
    return parts[0]

  def unmasked(*candidates):
    found = [x for x in candidates if not is_masked(x)]
    return found[0] if found else candidates[0]

  return jax.tree.map(unmasked, *parts, is_leaf=is_masked)
