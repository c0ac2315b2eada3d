"""The mean of a function of a batch, over parts of the batch."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from maxgnr_jax import _stacked


def mean_over_microbatches(
  fun: Callable[..., tuple[Any, Any]],
  microbatches: int,
  positions: Sequence[int],
  args: Sequence[Any],
) -> tuple[Any, Any]:
  """The mean of what ``fun`` returns for one part of the batch after the other.

  Part i of n holds the rows i, i + n, i + 2 n and so on: where a batch is sharded over
  devices, every part is.

  Args:
    fun: From the arguments to a pair: floating-point arrays to be averaged, and
      anything.
    microbatches: n, the number of parts.
    positions: Of the arguments that hold the batch, with rows on every leading axis, as
      many as n divides.
    args: The arguments, with the whole batch.

  Returns:
    The mean, in the dtypes of ``fun``, of a sum in float32 at least; and whatever
    ``fun`` returned second, stacked over the parts, ``[n, ...]`` in each leaf.
  """

  def part(i):
    def rows(x):
      x = jnp.asarray(x)
      parts = x.reshape(x.shape[0] // microbatches, microbatches, *x.shape[1:])
      return jax.lax.dynamic_index_in_dim(parts, i, axis=1, keepdims=False)

    some = list(args)
    for position in positions:
      some[position] = jax.tree.map(rows, args[position])
    return fun(*some)

  def add(sums, i):
    terms, rest = part(i)
    return jax.tree.map(lambda s, x: s + x.astype(s.dtype), sums, terms), rest

  like, _ = jax.eval_shape(part, 0)
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, _stacked.compute_dtype(x)), like)
  sums, rest = jax.lax.scan(add, zeros, jnp.arange(microbatches))
  means = jax.tree.map(lambda s, x: (s / microbatches).astype(x.dtype), sums, like)
  return means, rest


def check_batch(
  microbatches: int, positions: Sequence[int], inputs: Sequence[int], args: Any
) -> None:
  """Raises unless the arguments at these positions divide into so many microbatches.

  Args:
    microbatches: Their number, at least 1.
    positions: Of the arguments that hold the batch.
    inputs: Of those that are differentiated; in range.
    args: All positional arguments.
  """
  named = all(-len(args) <= p < len(args) for p in positions)
  differentiated = {p % len(args) for p in inputs}
  if not positions or not named or differentiated & {p % len(args) for p in positions}:
    raise TypeError(
      "`batch_argnums` must name the positional arguments that hold the batch, others "
      f"than those to differentiate, got {tuple(positions)} beside {tuple(inputs)}, of "
      f"{len(args)} positional arguments. Pass the batch by position."
    )
  batch = {f"argument {position}": args[position] for position in positions}
  leaves = jax.tree_util.tree_leaves_with_path(batch)
  if not leaves:
    raise ValueError(
      f"`batch_argnums` must name arguments that hold arrays, got {tuple(positions)} "
      "and no array there."
    )
  for path, leaf in leaves:
    shape = jnp.shape(leaf)
    if not shape or shape[0] % microbatches:
      raise ValueError(
        f"The batch must divide into {microbatches} microbatches of as many rows each, "
        f"got the leaf {jax.tree_util.keystr(path, simple=True, separator='/')} of "
        f"shape {shape}. Choose `microbatches` that divides the leading axis; pass "
        "what has no rows in an argument that `batch_argnums` does not name."
      )
