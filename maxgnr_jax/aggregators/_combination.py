"""The update that a method chose, made of the stacked gradients."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from maxgnr_jax import _stacked
from maxgnr_jax._linalg import zero_inactive
from maxgnr_jax.aggregators._method import Choice


def combine_gradients(
  choice: Choice,
  weights: jax.Array | None,
  grads: optax.Updates,
  trunk: optax.Updates,
  like: Any,
  active: jax.Array,
  labels: Any,
  own: jax.Array | None = None,
) -> optax.Updates:
  """Makes the update that a method chose, in the dtypes of ``like``.

  Args:
    choice: What the method chose.
    weights: [K] or [G, K]; None if the choice has none.
    grads: Stacked pytree.
    trunk: ``grads`` restricted to the trunk.
    like: Pytree like the parameters.
    active: [K], bool.
    labels: Pytree of labels, the group of each parameter; None without groups.
    own: [K], bool: the tasks whose gradients outside of the trunk are added up as they
      are. None: these are weighted as well.
  """
  if own is not None:
    like_trunk, like_heads = _stacked.restrict(like, trunk), _stacked.heads(like, trunk)
    shared = combine_gradients(
      choice, weights, trunk, trunk, like_trunk, active, labels
    )
    ones = jnp.ones(own.shape, _stacked.compute_dtype(like))
    heads = _stacked.combine(ones, _stacked.heads(grads, trunk), like_heads, own)
    return _stacked.merge([shared, heads])
  if weights is not None:
    rows = [weights] if labels is None else list(weights)
    parts = (_stacked.split(labels, tree) for tree in (grads, like))
    return _stacked.merge(
      [
        _stacked.combine(row, part, shapes, active)
        for row, part, shapes in zip(rows, *parts, strict=True)
      ]
    )
  any_active = jnp.any(active)
  combined = jax.tree.map(
    lambda x, shape: jnp.where(any_active, x, 0).astype(jnp.result_type(shape)),
    choice.combined,
    _stacked.restrict(like, trunk),
  )
  heads = _stacked.combine(
    zero_inactive(active, choice.head_weights),
    _stacked.heads(grads, trunk),
    _stacked.heads(like, trunk),
    active,
  )
  return _stacked.merge([combined, heads])
