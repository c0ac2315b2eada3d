"""The trunk: the parameters on which the tasks' gradients are measured.

An aggregator's argument ``shared`` selects it; without ``shared`` all parameters belong
to it. All others are *heads*. In a pytree that is restricted to the trunk an
:class:`optax.MaskedNode` stands for each head, as under :func:`optax.masked`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from maxgnr_jax._stacked._checks import HOW_TO_STACK
from maxgnr_jax._stacked._tree import how_to_call, resolve


class Trunk(NamedTuple):
  """Stands for a parameter of the trunk in a state, without holding an array."""


def select(shared: Any, params: optax.Params) -> Any:
  """Restricts the parameters to the trunk.

  Args:
    shared: As in :func:`maxgnr_jax.maxgnr`.
    params: Pytree of parameters.

  Returns:
    ``params`` with :class:`optax.MaskedNode` where ``shared`` is False.

  Raises:
    TypeError: if ``shared`` holds anything but bools.
    ValueError: if it is not like the parameters, or selects none of them, or only
      arrays of size 0 beside others.
  """
  # A pytree without arrays, such as one with masked nodes only, has nothing to select.
  if shared is None or not jax.tree.leaves(params):
    return params
  mask = resolve(shared, params)

  def keep_or_mask(keep, part):
    if not isinstance(keep, (bool, np.bool_)):
      raise TypeError(f"`shared` must hold bools, got {keep!r}.{how_to_call(shared)}")
    return part if keep else optax.MaskedNode()

  try:
    selected = jax.tree.map(keep_or_mask, mask, params)
  except ValueError as error:
    raise ValueError(
      "`shared` must be a pytree of bools like the parameters, a prefix of it, or a "
      f"function from the parameters to one, got {jax.tree.structure(mask)} for "
      f"parameters {jax.tree.structure(params)}.{how_to_call(shared)}"
    ) from error
  if got := held_instead(selected, params):
    raise ValueError(
      f"`shared` must select at least one parameter to measure gradients on, got {got}."
    )
  return selected


def held_instead(selected: Any, params: Any) -> str | None:
  """Returns what a selection from parameters holds if there is nothing to measure.

  None if there is something. If no parameter holds numbers, any may be selected.
  """
  if not jax.tree.leaves(selected):
    return "none"
  if has_numbers(params, axes=0) and not has_numbers(selected, axes=0):
    return "only arrays of size 0"
  return None


def trunk_mask(shared: Any, params: optax.Params) -> Any:
  """Returns a pytree of bools like ``params``, True for parameters of the trunk."""
  return trunk_of(params, select(shared, params))


def trunk_of(params: Any, trunk: Any) -> Any:
  """Returns a pytree of bools like ``params``, True for parameters of the trunk.

  Args:
    params: Pytree of parameters.
    trunk: The state's record of the trunk, or any pytree restricted to it.
  """
  return jax.tree.map(
    lambda own, part: jax.tree.map(lambda _: not is_masked(own), part),
    trunk,
    params,
    is_leaf=lambda node: is_masked(node) or isinstance(node, Trunk),
  )


def restrict(grads: optax.Updates, trunk: Any) -> optax.Updates:
  """Restricts ``grads`` to the trunk.

  Args:
    grads: Pytree like the parameters.
    trunk: The state's record of the trunk, or any pytree restricted to it.

  Raises:
    ValueError: if ``grads`` is not a pytree like that of the state.
  """

  def own_or_masked(own, g):
    if is_masked(own):
      return own
    if not jax.tree_util.all_leaves([g]):
      raise ValueError("a pytree in place of an array")
    return g

  try:
    return jax.tree.map(
      own_or_masked,
      trunk,
      grads,
      is_leaf=lambda node: is_masked(node) or isinstance(node, Trunk),
    )
  except ValueError as error:
    raise ValueError(
      "The gradients must be a pytree like the parameters that the state was made "
      f"for, {_like_params(trunk)}, got {jax.tree.structure(grads)}. Pass the state "
      "that this transformation's `init` made for these parameters. "
      f"{HOW_TO_STACK}"
    ) from error


def specs_of(
  param_specs: Any, trunk: Any
) -> tuple[jax.sharding.PartitionSpec, ...] | None:
  """Returns how each array of the trunk is sharded, if ``param_specs`` says so.

  Args:
    param_specs: Pytree of :class:`jax.sharding.PartitionSpec` like the parameters.
    trunk: The state's record of the trunk.
  """
  if param_specs is None:
    return None
  return tuple(jax.tree.leaves(restrict(param_specs, trunk)))


def _like_params(trunk: Any) -> Any:
  """Returns the structure of the parameters, with masked nodes for the heads."""
  return jax.tree.structure(
    jax.tree.map(lambda _: 0, trunk, is_leaf=lambda node: isinstance(node, Trunk))
  )


def heads(grads: optax.Updates, trunk: optax.Updates) -> optax.Updates:
  """Restricts ``grads`` to the heads, the parameters outside of the trunk.

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


def has_numbers(tree: Any, axes: int = 1) -> bool:
  """Tells whether any array of a pytree has coordinates.

  Args:
    tree: Pytree of arrays.
    axes: Number of leading axes over the tasks. How many tasks there are does not
      matter: gradients for no task are refused elsewhere.
  """
  return any(0 not in jnp.shape(leaf)[axes:] for leaf in jax.tree.leaves(tree))


def nothing_to_measure(grads: optax.Updates) -> optax.Updates:
  """Returns the update for gradients without coordinates, which are not measured.

  They hold only arrays of size 0 and masked nodes, as :func:`optax.partition` passes
  for an unused label.

  Raises:
    ValueError: for an empty pytree.
  """
  if not jax.tree.leaves(grads, is_leaf=is_masked):
    raise ValueError(
      "The gradients must hold at least one array, got an empty pytree: "
      f"{jax.tree.structure(grads)}. Check which argument the losses are "
      "differentiated with respect to."
    )
  return jax.tree.map(lambda g: g[0], grads)


def is_masked(node: Any) -> bool:
  """Tells whether a node stands for a parameter that is left out."""
  return isinstance(node, optax.MaskedNode)
