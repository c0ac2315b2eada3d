"""Combinations of the tasks' gradients, coordinate by coordinate."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from maxgnr_jax._stacked._sums import in_place
from maxgnr_jax._stacked._tree import compute_dtype

# Tasks for which combinations and comparisons are written out: XLA makes one loop of
# that, without copies. It does not of more.
MOST_TERMS = 15


def combine(
  weights: jax.Array, grads: Any, like: Any, active: jax.Array | None = None
) -> Any:
  """``Σ_k w_k g_k`` in the dtypes of ``like``, a pytree with the same structure.

  Without the tasks that are not ``active`` [K], whose gradients may be anything.
  """

  def sums(weighted_sum):
    def leaf(g, reference):
      w = weights.astype(compute_dtype(g))
      return weighted_sum(w, g, active).astype(jnp.result_type(reference))

    return jax.tree.map(leaf, grads, like)

  if weights.size <= MOST_TERMS:
    return sums(_written_out)
  if active is None:
    return sums(_product)
  # A product has no room for what is not a number, and a loop takes longer.
  return jax.lax.cond(
    jnp.all(active), lambda: sums(_product), lambda: sums(_one_by_one)
  )


def _written_out(w, g, active):
  terms = [w[k] * g[k].astype(w.dtype) for k in range(w.size)]
  if active is not None:
    terms = [jnp.where(active[k], term, 0) for k, term in enumerate(terms)]
  return add(terms)


def _product(w, g, active):
  del active
  if g.dtype == w.dtype or jax.device_count() > 1:  # a reshape could gather it
    return jnp.tensordot(w, g.astype(w.dtype), 1, precision="highest")
  columns = g.astype(w.dtype).reshape(w.size, -1).T  # so XLA fuses the conversion
  return jnp.matmul(columns, w, precision="highest").reshape(g.shape[1:])


def _one_by_one(w, g, active):
  def term(k):
    x = jax.lax.dynamic_index_in_dim(g, k, keepdims=False)
    return jnp.where(active[k], w[k] * x.astype(w.dtype), 0)

  term = in_place(term, w.size) if g.dtype != w.dtype else term
  zero = jnp.zeros(g.shape[1:], w.dtype)
  return jax.lax.fori_loop(0, w.size, lambda k, total: total + term(k), zero)


def apply(leaf: Callable[..., jax.Array], stacked: Any, key: Any = None) -> Any:
  """``leaf`` of every array, [K, *shape] to [*shape], in the arithmetic's dtype.

  Args:
    leaf: Takes an array, and a PRNG key of its own if ``key`` is given.
    stacked: Stacked pytree.
    key: PRNG key.
  """
  arrays, treedef = jax.tree.flatten(stacked)
  wide = [x.astype(compute_dtype(x)) for x in arrays]
  keys = [()] * len(wide) if key is None else zip(jax.random.split(key, len(wide)))
  combined = [leaf(x, *k) for x, k in zip(wide, keys, strict=True)]
  return jax.tree.unflatten(treedef, combined)


def add(rows: Sequence[jax.Array] | jax.Array) -> jax.Array:
  """The sum over the tasks, one by one: XLA fuses that, but not a sum over an axis."""
  return functools.reduce(jnp.add, list(rows))


def sorted_over_tasks(stacked: jax.Array) -> list[jax.Array]:
  """Each coordinate's values in ascending order: K arrays like a task's.

  Odd-even transposition of whole arrays, K²/2 comparisons in one fused loop; XLA's own
  sort, which many tasks need, goes through the coordinates one by one.
  """
  if stacked.shape[0] > MOST_TERMS:
    return list(jnp.sort(stacked, axis=0))
  rows = list(stacked)
  for round_ in range(len(rows)):
    for i in range(round_ % 2, len(rows) - 1, 2):
      low, high = rows[i], rows[i + 1]
      rows[i], rows[i + 1] = jnp.minimum(low, high), jnp.maximum(low, high)
  return rows
