"""Operations on K-sized arrays of which only the active tasks count.

A task is active in a step if ``task_mask`` is True for it and its gradient is finite.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax


def zero_inactive(active: jax.Array, tree: Any, axes: int = 1) -> Any:
  """Sets the entries of inactive tasks to 0.

  Args:
    active: [K], bool.
    tree: Pytree of arrays [K, ...], or [K, K, ...] with ``axes=2``.
    axes: Number of leading axes over the tasks, 1 or 2 (for a Gramian).

  Returns:
    Pytree like ``tree``. With ``axes=2`` both the rows and the columns of inactive
    tasks are 0.
  """
  both = active if axes == 1 else active[:, None] & active[None, :]

  def leaf(x):
    return jnp.where(along(both, x), x, jnp.zeros((), x.dtype))

  return jax.tree.map(leaf, tree)


def along(values: jax.Array, x: jax.Array) -> jax.Array:
  """Appends axes to ``values``, [] or [K], so that it broadcasts against ``x``."""
  return values.reshape(values.shape + (1,) * (x.ndim - values.ndim))


def uniform_weights(active: jax.Array, dtype: Any) -> jax.Array:
  """Returns equal weights [K] of sum 1 for the active tasks, and 0 for the others."""
  weights = active.astype(dtype)
  return weights / jnp.maximum(jnp.sum(weights), 1.0)


def redistribute(active: jax.Array, weights: jax.Array) -> jax.Array:
  """Redistributes the weights [K] of inactive tasks, preserving the total.

  Active tasks share the total in proportion to their own weights.
  """
  kept = zero_inactive(active, weights)
  total = jnp.sum(kept)
  factor = jnp.sum(weights) / jnp.where(total == 0, 1.0, total)
  return jnp.where(jnp.all(active), weights, kept * factor)


def active_softmax(active: jax.Array, logits: jax.Array) -> jax.Array:
  """Returns the softmax of the logits [K] over the active tasks, 0 for the others."""
  inactive = jnp.where(jnp.any(active), -jnp.inf, 0.0)  # not infinite for all tasks
  logits = jnp.where(active, logits, inactive.astype(logits.dtype))
  return jnp.where(active, jax.nn.softmax(logits), 0.0)


def num_active(active: jax.Array, dtype: Any) -> jax.Array:
  """Counts the active tasks, in ``dtype``; 1 if none is active, to be divided by."""
  return jnp.maximum(jnp.sum(active.astype(dtype)), 1.0)


def remember(active: jax.Array, new: Any, old: Any) -> Any:
  """Updates a memory for the active tasks only.

  Args:
    active: [K], bool.
    new: Pytree of arrays, the memory after a step in which every task is active.
    old: Pytree like ``new``, the memory before the step.

  Returns:
    Pytree like ``new``. In every floating-point array [K, ...] the rows of inactive
    tasks are taken from ``old``. Other arrays, such as counters and PRNG keys, belong
    to no single task: they are taken from ``old`` only if no task is active.

  With groups call it on each group's arrays, [K, ...], for instance under
  :func:`jax.vmap`: the rows of an array [G, K] are no tasks.
  """

  def leaf(after, before):
    after = jnp.asarray(after)
    per_task = jnp.issubdtype(after.dtype, jnp.floating) and after.shape[:1] == (
      active.size,
    )
    keep = along(active, after) if per_task else jnp.any(active)
    return jnp.where(keep, after, before)

  return jax.tree.map(leaf, new, old)


def count_where(condition: jax.Array, count: jax.Array) -> jax.Array:
  """Adds 1 to ``count`` [K], int32, where ``condition`` [K] holds."""
  return jnp.where(condition, optax.safe_increment(count), count)


def corrected_decay(decay: jax.Array, samples: jax.Array) -> jax.Array:
  """Returns how much of an average stays when it takes in one more sample.

  This is the decay rate ρ, corrected for an average that begins at 0: with
  ρ (1 - ρⁿ) / (1 - ρⁿ⁺¹) after n samples it has no bias (Kingma and Ba, Adam, ICLR
  2015).

  Args:
    decay: [], ρ, in [0, 1).
    samples: [K], n, in the dtype of the decay rate.
  """
  return decay * (1.0 - decay**samples) / (1.0 - decay ** (samples + 1.0))
