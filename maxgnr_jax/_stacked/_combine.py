"""Combinations of the tasks' gradients, coordinate by coordinate."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from maxgnr_jax._stacked._sums import in_place
from maxgnr_jax._stacked._tree import add, compute_dtype

# Up to this many tasks, combinations and comparisons are written out term by term,
# which XLA fuses into one loop without copies. It does not do so for more terms.
MOST_TERMS = 15


def combine(
  weights: jax.Array, grads: Any, like: Any, active: jax.Array | None = None
) -> Any:
  """Returns the weighted sum ``Σ_k w_k g_k`` of the active tasks' gradients.

  Args:
    weights: [K].
    grads: Stacked pytree.
    like: Pytree of the same structure; the result takes its dtypes.
    active: [K], bool: the tasks to sum over. Gradients of the others may be anything,
      NaN too. Default: all tasks.
  """

  def sums(weighted_sum):
    def leaf(g, reference):
      w = weights.astype(compute_dtype((weights, g)))
      return weighted_sum(w, g, active).astype(jnp.result_type(reference))

    return jax.tree.map(leaf, grads, like)

  if weights.size <= MOST_TERMS:
    return sums(_written_out)
  if active is None:
    return sums(_product)
  # A matrix product would multiply an inactive task's NaN by 0, which is NaN. The loop
  # skips it, but takes longer.
  return jax.lax.cond(
    jnp.all(active), lambda: sums(_product), lambda: sums(_one_by_one)
  )


def _written_out(w, g, active):
  """Sums K terms that are written out in the program."""
  terms = [w[k] * g[k].astype(w.dtype) for k in range(w.size)]
  if active is not None:
    terms = [jnp.where(active[k], term, 0) for k, term in enumerate(terms)]
  return add(terms)


def _product(w, g, active):
  """Sums by a matrix product over all tasks, which must be active."""
  del active
  # Over several devices a reshape could gather the gradients on each of them.
  if g.dtype == w.dtype or jax.device_count() > 1:
    return jnp.tensordot(w, g.astype(w.dtype), 1, precision="highest")
  columns = g.astype(w.dtype).reshape(w.size, -1).T  # so XLA fuses the conversion
  return jnp.matmul(columns, w, precision="highest").reshape(g.shape[1:])


def _one_by_one(w, g, active):
  """Sums in a loop over the tasks, without the inactive ones."""

  def term(k):
    x = jax.lax.dynamic_index_in_dim(g, k, keepdims=False)
    return jnp.where(active[k], w[k] * x.astype(w.dtype), 0)

  term = in_place(term, w.size) if g.dtype != w.dtype else term
  zero = jnp.zeros(g.shape[1:], w.dtype)
  return jax.lax.fori_loop(0, w.size, lambda k, total: total + term(k), zero)


def apply(leaf: Callable[..., jax.Array], stacked: Any, key: Any = None) -> Any:
  """Applies ``leaf`` to every array of a stacked pytree.

  Args:
    leaf: From an array [K, *shape] in the dtype of the arithmetic to one of shape
      [*shape]. With ``key`` it takes a PRNG key as well, a different one for every
      array.
    stacked: Stacked pytree.
    key: PRNG key.
  """
  arrays, treedef = jax.tree.flatten(stacked)
  wide = [x.astype(compute_dtype(x)) for x in arrays]
  keys = [()] * len(wide) if key is None else zip(jax.random.split(key, len(wide)))
  combined = [leaf(x, *k) for x, k in zip(wide, keys, strict=True)]
  return jax.tree.unflatten(treedef, combined)


def sorted_over_tasks(stacked: jax.Array) -> list[jax.Array]:
  """Sorts each coordinate's K values in ascending order.

  Few tasks are sorted by odd-even transposition of whole arrays: K²/2 comparisons in
  one fused loop. XLA's own sort goes through the coordinates one by one, and is left to
  many tasks.

  Args:
    stacked: [K, *shape].

  Returns:
    K arrays [*shape]: the smallest values first, the largest last.
  """
  if stacked.shape[0] > MOST_TERMS:
    return list(jnp.sort(stacked, axis=0))
  rows = list(stacked)
  for round_ in range(len(rows)):
    for i in range(round_ % 2, len(rows) - 1, 2):
      low, high = rows[i], rows[i + 1]
      rows[i], rows[i + 1] = jnp.minimum(low, high), jnp.maximum(low, high)
  return rows
