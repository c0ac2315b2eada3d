"""Stacked averages over steps."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp

from maxgnr_jax._linalg._active import along
from maxgnr_jax._stacked._rounding import stochastically_rounded
from maxgnr_jax._stacked._tree import compute_dtype


def decay(
  momentum: Any,
  grads: Any,
  gamma: jax.Array,
  active: jax.Array | None = None,
  seed: jax.Array | None = None,
) -> Any:
  """``γ m + (1 - γ) g`` (Eq. 13), stored in the momentum's dtype.

  Args:
    momentum: Stacked pytree.
    grads: Stacked pytree like it.
    gamma: [] or [K].
    active: [K], bool: the other tasks' momentum stays as it is. Default: all.
    seed: [], uint32: rounds stochastically, by this. Default: to the nearest.
  """
  number = itertools.count()

  def leaf(m, g):
    wide = compute_dtype((m, g))
    g = g.astype(wide)
    # One step's NaN must not stay for ever: there the momentum starts again.
    before = jnp.where(jnp.isfinite(m), m.astype(wide), g)
    change = along((1 - gamma).astype(wide), g) * (g - before)
    after = before + change
    if seed is None:
      after = after.astype(m.dtype)
    else:
      after = stochastically_rounded(after, m.dtype, seed, next(number))
    return after if active is None else jnp.where(along(active, m), after, m)

  return jax.tree.map(leaf, momentum, grads)


def mix(a: jax.Array, first: Any, b: jax.Array, second: Any) -> Any:
  """``a_k x_k + b_k y_k`` of every task of two stacked pytrees, in x's dtypes."""

  def leaf(x, y):
    wide = compute_dtype((x, y))

    def times(factor, z):
      return factor.astype(wide).reshape(-1, *(1,) * (z.ndim - 1)) * z.astype(wide)

    return (times(a, x) + times(b, y)).astype(x.dtype)

  return jax.tree.map(leaf, first, second)
