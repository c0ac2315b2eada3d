"""The trunk: the parameters on which the tasks' gradients are measured.

``shared`` selects it; without ``shared`` all parameters belong to it. In a pytree that
is restricted to the trunk an :class:`optax.MaskedNode` stands for each other parameter,
as under :func:`optax.masked`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from maxgnr_jax._stacked._checks import HOW_TO_STACK


class Trunk(NamedTuple):
  """Stands for a parameter of the trunk in a state; holds no array."""


def select(shared: Any, params: optax.Params) -> Any:
  """Puts :class:`optax.MaskedNode` into ``params`` where ``shared`` is False.

  Raises:
    TypeError: if ``shared`` holds anything but bools.
    ValueError: if it is not like the parameters, or selects none of them.
  """
  # Without arrays there is nothing to select: all masked, or optax's placeholder.
  if shared is None or not jax.tree.leaves(params):
    return params
  mask = shared(params) if callable(shared) else shared

  def keep_or_mask(keep, part):
    if not isinstance(keep, (bool, np.bool_)):
      raise TypeError(f"`shared` must hold bools, got {keep!r}.")
    return part if keep else optax.MaskedNode()

  try:
    selected = jax.tree.map(keep_or_mask, mask, params)
  except ValueError as error:
    raise ValueError(
      "`shared` must be a pytree of bools like the parameters, a prefix of it, or a "
      f"function from the parameters to one, got {jax.tree.structure(mask)} for "
      f"parameters {jax.tree.structure(params)}."
    ) from error
  if not jax.tree.leaves(selected):
    raise ValueError(
      "`shared` must select at least one parameter to measure gradients on, got none."
    )
  return selected


def trunk_mask(shared: Any, params: optax.Params) -> Any:
  """Returns a pytree of bools like ``params``, True for parameters of the trunk."""
  return jax.tree.map(
    lambda s, part: jax.tree.map(lambda _: not is_masked(s), part),
    select(shared, params),
    params,
    is_leaf=is_masked,
  )


def restrict(grads: optax.Updates, trunk: Any) -> optax.Updates:
  """Restricts ``grads`` to the trunk.

  Args:
    grads: Pytree like the parameters.
    trunk: The state's record of the trunk, or any pytree restricted to it.

  Raises:
    ValueError: if ``grads`` is not a pytree like that of the state.
  """
  try:
    return jax.tree.map(
      lambda own, g: own if is_masked(own) else g,
      trunk,
      grads,
      is_leaf=lambda node: is_masked(node) or isinstance(node, Trunk),
    )
  except ValueError as error:
    raise ValueError(
      "The gradients must be a pytree like the parameters that the state was made "
      f"for, {_like_params(trunk)}, got {jax.tree.structure(grads)}. Pass the "
      "state that this transformation's `init` made for these parameters. "
      f"{HOW_TO_STACK}"
    ) from error


def _like_params(trunk: Any) -> Any:
  """Returns the structure of the parameters, with a leaf for each of the trunk."""
  is_trunk = lambda node: isinstance(node, Trunk)  # noqa: E731
  return jax.tree.structure(jax.tree.map(lambda _: 0, trunk, is_leaf=is_trunk))


def heads(grads: optax.Updates, trunk: optax.Updates) -> optax.Updates:
  """Restricts ``grads`` to the parameters outside of the trunk.

  Args:
    grads: Pytree like the parameters.
    trunk: ``grads`` restricted to the trunk.
  """
  return jax.tree.map(
    lambda own, g: g if is_masked(own) else optax.MaskedNode(),
    trunk,
    grads,
    is_leaf=is_masked,
  )


def has_numbers(grads: optax.Updates) -> bool:
  """Whether any stacked gradient holds numbers; one of no task is an error later on."""
  return any(0 not in jnp.shape(leaf)[1:] for leaf in jax.tree.leaves(grads))


def nothing_to_measure(grads: optax.Updates) -> optax.Updates:
  """Returns the update from gradients without numbers.

  These hold masked nodes only, as `optax.partition` passes for an unused label, and
  arrays of size 0.

  Raises:
    ValueError: for an empty pytree.
  """
  if not jax.tree.leaves(grads, is_leaf=is_masked):
    raise ValueError(
      "The gradients must hold at least one array, got an empty pytree: "
      f"{jax.tree.structure(grads)}. Check what the losses are differentiated by."
    )
  return jax.tree.map(lambda g: g[0], grads)


def is_masked(node: Any) -> bool:
  """Whether a node stands for a parameter that is left out."""
  return isinstance(node, optax.MaskedNode)
