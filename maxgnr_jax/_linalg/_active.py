"""Active tasks: those that the mask lets in and whose gradients are finite."""

from typing import Any

import jax
import jax.numpy as jnp
import optax


def zero_inactive(active: jax.Array, tree: Any, axes: int = 1) -> Any:
  """Replaces what belongs to inactive tasks by zeros.

  Args:
    active: [K], bool.
    tree: Pytree of arrays whose first ``axes`` axes are the tasks: [K, ...], or
      [K, K, ...] with ``axes=2``, as in a Gramian.
    axes: 1 or 2.
  """
  both = active if axes == 1 else active[:, None] & active[None, :]

  def leaf(x):
    return jnp.where(along(both, x), x, jnp.zeros((), x.dtype))

  return jax.tree.map(leaf, tree)


def along(values: jax.Array, x: jax.Array) -> jax.Array:
  """Reshapes one number, or one per task, so that it broadcasts against ``x``."""
  return values.reshape(values.shape + (1,) * (x.ndim - values.ndim))


def uniform_weights(active: jax.Array, dtype: Any) -> jax.Array:
  """Gives each active task one over their number, and 0 to the others; [K]."""
  weights = active.astype(dtype)
  return weights / jnp.maximum(jnp.sum(weights), 1.0)


def redistribute(active: jax.Array, weights: jax.Array) -> jax.Array:
  """Redistributes the weights [K] of inactive tasks, preserving the total.

  Active tasks get it in proportion to their own weights.
  """
  kept = zero_inactive(active, weights)
  total = jnp.sum(kept)
  factor = jnp.sum(weights) / jnp.where(total == 0, 1.0, total)
  return jnp.where(jnp.all(active), weights, kept * factor)


def active_softmax(active: jax.Array, logits: jax.Array) -> jax.Array:
  """Takes the softmax over the active tasks' logits [K]; 0 for the others."""
  logits = jnp.where(active, logits, -jnp.inf)
  return jnp.where(active, jax.nn.softmax(logits), 0.0)


def num_active(active: jax.Array, dtype: Any) -> jax.Array:
  """Counts the active tasks, in ``dtype``; 1 if there are none, so as to divide by."""
  return jnp.maximum(jnp.sum(active.astype(dtype)), 1.0)


def remember(active: jax.Array, new: Any, old: Any) -> Any:
  """Updates a memory for the active tasks only.

  Args:
    active: [K], bool.
    new: Pytree of what would be remembered if every task were active.
    old: Pytree like it, from before the step.

  Returns:
    ``new``, but ``old`` in the rows of inactive tasks of every floating-point array
    [K, ...]. Other arrays, such as counters and PRNG keys, belong to all tasks: they
    stay as they were only if no task is active.
  """

  def leaf(after, before):
    after = jnp.asarray(after)
    per_task = jnp.issubdtype(after.dtype, jnp.floating) and after.shape[:1] == (
      active.size,
    )
    keep = along(active, after) if per_task else jnp.any(active)
    return jnp.where(keep, after, before)

  return jax.tree.map(leaf, new, old)


def count_where(happened: jax.Array, count: jax.Array) -> jax.Array:
  """Adds one to ``count`` [K] where it ``happened`` [K]."""
  return jnp.where(happened, optax.safe_increment(count), count)
