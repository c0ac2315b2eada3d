"""Means of a function over the parts of a batch."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from maxgnr_jax import _stacked
from maxgnr_jax._grads._staging import is_staged


def mean_over_microbatches(
  fun: Callable[..., tuple[Any, Any]],
  microbatches: int,
  positions: Sequence[int],
  args: Sequence[Any],
) -> tuple[Any, Any]:
  """Calls ``fun`` for one part of the batch after the other and averages the results.

  Part i of n holds the rows i, i + n, i + 2 n and so on, so that every part is sharded
  over devices where the batch is.

  Args:
    fun: From the arguments to a pair: floating-point arrays to be averaged, and
      anything.
    microbatches: n, the number of parts.
    positions: Positions of the batch arguments. Axis 0 of every leaf must be divisible
      by n.
    args: The arguments, with the whole batch.

  Returns:
    The means, summed in float32 at least, in the dtypes that ``fun`` returns; and the
    second results of ``fun``, stacked over the parts, ``[n, ...]`` in each leaf.
  """

  def part(i):
    def rows(x):
      x = jnp.asarray(x)
      parts = x.reshape(x.shape[0] // microbatches, microbatches, *x.shape[1:])
      return jax.lax.dynamic_index_in_dim(parts, i, axis=1, keepdims=False)

    part_args = list(args)
    for position in positions:
      part_args[position] = jax.tree.map(rows, args[position])
    return fun(*part_args)

  def add(sums, terms):
    return jax.tree.map(lambda s, x: s + x.astype(s.dtype), sums, terms)

  def zeros(like):
    return jax.tree.map(lambda x: jnp.zeros(x.shape, _stacked.compute_dtype(x)), like)

  def add_part(sums, i):
    terms, rest = part(i)
    return add(sums, terms), rest

  if is_staged():
    like, _ = jax.eval_shape(part, 0)
    sums, rest = jax.lax.scan(add_part, zeros(like), jnp.arange(microbatches))
  else:
    like, first = part(0)
    sums, rests = add(zeros(like), like), [first]
    for i in range(1, microbatches):
      sums, rest = add_part(sums, i)
      rests.append(rest)
    rest = _stacked.stack(rests)
  means = jax.tree.map(lambda s, x: (s / microbatches).astype(x.dtype), sums, like)
  return means, rest


def check_batch(
  microbatches: int, positions: Sequence[int], inputs: Sequence[int], args: Any
) -> None:
  """Raises unless the batch arguments can be divided into microbatches.

  Args:
    microbatches: Number of microbatches, at least 1.
    positions: Positions of the batch arguments.
    inputs: Positions of the arguments that are differentiated; in range.
    args: All positional arguments.

  Raises:
    TypeError: if ``positions`` is empty or out of range, or shares an argument with
      ``inputs``.
    ValueError: if the batch holds no arrays, or one with an axis 0 that
      ``microbatches`` does not divide.
  """
  in_range = all(-len(args) <= p < len(args) for p in positions)
  differentiated = {p % len(args) for p in inputs}
  if (
    not positions
    or not in_range
    or differentiated.intersection(p % len(args) for p in positions)
  ):
    raise TypeError(
      "`batch_argnums` must name the positional arguments that hold the batch, none of "
      f"which is differentiated, got {tuple(positions)} in a call with {len(args)} "
      f"positional arguments, of which {tuple(inputs)} are differentiated. Pass the "
      "batch by position, apart from the parameters."
    )
  batch = {f"argument {position}": args[position] for position in positions}
  leaves = jax.tree_util.tree_leaves_with_path(batch)
  if not leaves:
    raise ValueError(
      f"`batch_argnums` must name arguments that hold arrays, got {tuple(positions)}, "
      "which hold none. Name the arguments with the examples' rows."
    )
  for path, leaf in leaves:
    shape = jnp.shape(leaf)
    if not shape or shape[0] % microbatches:
      raise ValueError(
        f"The batch must divide into {microbatches} microbatches of equally many rows, "
        f"got the leaf {jax.tree_util.keystr(path, simple=True, separator='/')} of "
        f"shape {shape}. Choose `microbatches` so that it divides the leading axis. "
        "Pass an array that has no rows in an argument that `batch_argnums` does not "
        "name."
      )
