"""Groups of parameters, each of which gets task weights of its own."""

from collections.abc import Callable
from typing import Any

import jax
import optax

from maxgnr_jax._stacked._trunk import is_masked

Labels = str | Any | Callable[[Any], Any] | None


def label(groups: Labels, params: Any) -> Any:
  """A pytree like ``params`` with the label of each parameter's group.

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
  """The names of the groups, in the order of the state's first axis.

  Args:
    groups: As :func:`maxgnr` takes them.
    params: Pytree of arrays, or of their shapes.

  Returns:
    The labels, sorted.

  Example:
    >>> import jax.numpy as jnp
    >>> from maxgnr_jax import group_names
    >>> dense = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    >>> group_names("layer", {"first": dense, "second": dense})
    ['first', 'second']
  """
  return sorted(set(jax.tree.leaves(label(groups, params))))


def split(labels: Any, names: list[str], tree: Any) -> list[Any]:
  """For each group ``tree`` with :class:`optax.MaskedNode` in place of the others."""

  def part(name):
    return jax.tree.map(
      lambda x, own: x if own == name else optax.MaskedNode(),
      tree,
      labels,
      is_leaf=is_masked,
    )

  return [part(name) for name in names]


def merge(parts: list[Any]) -> Any:
  """The tree that was split."""

  def own(*candidates):
    present = [x for x in candidates if not is_masked(x)]
    return present[0] if present else candidates[0]

  return jax.tree.map(own, *parts, is_leaf=is_masked)


def check_measured(names: list[str], parts: list[Any]) -> None:
  """Raises unless gradients are measured in every group."""
  for name, part in zip(names, parts, strict=True):
    if not jax.tree.leaves(part):
      raise ValueError(
        f"Every group must have parameters that are measured, got {name!r}, of which "
        "`shared` selects none. Give these the label of another group, whose weights "
        "they then take."
      )
