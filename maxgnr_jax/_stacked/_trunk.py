"""The part of the parameters on which the tasks' gradients are measured.

Elsewhere an :class:`optax.MaskedNode` stands in the tree, as under
:func:`optax.masked`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from maxgnr_jax._stacked import HOW_TO_STACK


def select(shared: Any, params: optax.Params) -> Any:
  """``params`` with :class:`optax.MaskedNode` where ``shared`` is False."""
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


def as_mask(shared: Any, params: optax.Params) -> Any:
  """A pytree of bools like ``params``: True where ``shared`` is, or is None."""
  return jax.tree.map(
    lambda s, part: jax.tree.map(lambda _: not is_masked(s), part),
    select(shared, params),
    params,
    is_leaf=is_masked,
  )


def restrict(grads: optax.Updates, momentum: Any) -> Any:
  """``grads`` with :class:`optax.MaskedNode` where ``momentum`` has it."""
  try:
    return jax.tree.map(
      lambda m, g: m if is_masked(m) else g, momentum, grads, is_leaf=is_masked
    )
  except ValueError as error:
    raise ValueError(
      "The gradients must be a pytree like the state's momentum, "
      f"{jax.tree.structure(momentum)}, got {jax.tree.structure(grads)}. Pass the "
      "state that this transformation's `init` made for these parameters. "
      f"{HOW_TO_STACK}"
    ) from error


def replace(updates: optax.Updates, part: Any) -> optax.Updates:
  """``updates`` with the arrays of ``part``, in its dtypes, where it is not masked."""
  return jax.tree.map(
    lambda p, u: u if is_masked(p) else p.astype(u.dtype),
    part,
    updates,
    is_leaf=is_masked,
  )


def has_numbers(grads: optax.Updates) -> bool:
  """Whether stacked gradients hold any parameter's; that of no task is an error."""
  return any(0 not in jnp.shape(leaf)[1:] for leaf in jax.tree.leaves(grads))


def rest(grads: optax.Updates, measured: optax.Updates) -> optax.Updates:
  """``grads`` where ``measured`` is masked, and :class:`optax.MaskedNode` elsewhere."""
  return jax.tree.map(
    lambda m, g: g if is_masked(m) else optax.MaskedNode(),
    measured,
    grads,
    is_leaf=is_masked,
  )


def nothing_to_measure(grads: optax.Updates) -> optax.Updates:
  """The update from gradients without numbers.

  Such are masked nodes only, as `optax.partition` passes for an unused label, and
  arrays of size 0.
  """
  if not jax.tree.leaves(grads, is_leaf=is_masked):
    raise ValueError(
      "The gradients must hold at least one array, got an empty pytree: "
      f"{jax.tree.structure(grads)}. Check what the losses are differentiated by."
    )
  return jax.tree.map(lambda g: g[0], grads)


def is_masked(node: Any) -> bool:
  """Whether a node stands for parameters that are left out."""
  return isinstance(node, optax.MaskedNode)
