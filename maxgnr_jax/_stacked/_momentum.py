"""Averages over steps of stacked gradients."""

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
  """Returns the momentum ``γ m + (1 - γ) g`` (Eq. 13), in the dtypes it had before.

  Where a momentum holds NaN or infinity it starts again from the gradient.

  Args:
    momentum: Stacked pytree.
    grads: Stacked pytree like it.
    gamma: [] or [K], the decay rate.
    active: [K], bool: the momentum of other tasks stays as it is. Default: all tasks
      are active.
    seed: [], uint32: seed of stochastic rounding, a different one in every step.
      Default: round to nearest.
  """
  number = itertools.count()

  def leaf(m, g):
    wide = compute_dtype((m, g))
    g = g.astype(wide)
    # Otherwise the NaN of a single step would stay in the momentum for ever.
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
  """Returns ``a_k x_k + b_k y_k`` for every task k, in the dtypes of ``first``.

  Args:
    a: [K], the factors of ``first``.
    first: Stacked pytree, x.
    b: [K], the factors of ``second``.
    second: Stacked pytree like ``first``, y.
  """

  def leaf(x, y):
    wide = compute_dtype((x, y))

    def times(factor, z):
      return along(factor.astype(wide), z) * z.astype(wide)

    return (times(a, x) + times(b, y)).astype(x.dtype)

  return jax.tree.map(leaf, first, second)
