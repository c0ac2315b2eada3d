"""The aggregator's state in the state of a whole optimiser."""

import sys
from typing import Any

import jax
from jax.tree_util import keystr, tree_leaves_with_path

from maxgnr_jax._maxgnr_state import MaxGNRState
from maxgnr_jax.aggregators._base import AggregatorState


def aggregator_state(opt_state: Any) -> MaxGNRState | AggregatorState:
  """Returns the state of the aggregator inside the state of any optimiser.

  Fields such as ``weights`` and ``count`` can then be read by name, whatever the
  parameters and the other states are called: :func:`optax.tree.get` raises an error
  where a parameter has the name of a field.

  Args:
    opt_state: State of an aggregator, or of anything that contains one: a pytree such
      as the state of an :func:`optax.chain`, of :func:`optax.inject_hyperparams`, of
      another of optax's wrappers or of :func:`value_and_combined_grad`; a pytree that
      holds such a state, as flax's ``TrainState``; or an object that has one as
      ``opt_state``, as ``nnx.Optimizer``. May be traced.

  Returns:
    The :class:`MaxGNRState` of :func:`maxgnr`, or the
    :class:`aggregators.AggregatorState` of another method, with arrays in place of the
    ``nnx.Variable`` that ``nnx.Optimizer`` keeps.

  Raises:
    KeyError: if ``opt_state`` contains no such state, or more than one, as that of
      :func:`aggregators.flat_regions` does.

  Example:
    >>> import jax.numpy as jnp
    >>> import optax
    >>> from maxgnr_jax import aggregator_state, maxgnr
    >>> tx = optax.chain(maxgnr(), optax.adam(0.1))
    >>> params = {"weights": jnp.zeros(2)}
    >>> grads = {"weights": jnp.array([[1.0, 0.0], [0.0, 3.0]])}
    >>> _, opt_state = tx.update(grads, tx.init(params), params)
    >>> [f"{weight:.2f}" for weight in aggregator_state(opt_state).weights]
    ['0.75', '0.25']
  """
  found = _find(opt_state)
  if not found:
    raise KeyError(
      "`opt_state` must contain one state of `maxgnr` or another aggregator, found "
      "none. Pass what `init` or `update` of an optimiser with an aggregator returned, "
      "or an object that holds it as `opt_state`."
    )
  if len(found) > 1:
    raise KeyError(
      "`opt_state` must contain one state of `maxgnr` or another aggregator, found "
      f"{len(found)}, at {' and '.join(place for place, _ in found)}. Pass the part "
      "of the state that holds one."
    )
  return _arrays(found[0][1])


def _find(tree: Any) -> list[tuple[str, Any]]:
  """Returns the places and the aggregator states in a pytree or an object."""
  found = []
  for path, leaf in tree_leaves_with_path(tree, is_leaf=_is_state):
    if _is_state(leaf):
      found.append((keystr(path), leaf))
    elif hasattr(leaf, "opt_state"):  # an object that is no pytree
      inside = _find(leaf.opt_state)
      found += [(f"{keystr(path)}.opt_state{place}", state) for place, state in inside]
  return found


def _is_state(node: Any) -> bool:
  return isinstance(node, (MaxGNRState, AggregatorState))


def _arrays(state: Any) -> Any:
  """Returns a state with their contents in place of the variables of flax.nnx."""
  nnx = sys.modules.get("flax.nnx")
  if nnx is None:
    return state

  def is_variable(node):
    return isinstance(node, nnx.Variable)

  def contents(node):
    if not is_variable(node):
      return node
    # In newer versions of flax `value` is deprecated; older ones have only that.
    return node.get_value() if hasattr(type(node), "get_value") else node.value

  return jax.tree.map(contents, state, is_leaf=is_variable)
