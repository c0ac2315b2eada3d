"""Runs of some steps on a vector of parameters, with all values that methods read."""

import functools

import jax
import jax.numpy as jnp
import numpy as np


def run(tx, history, masks=None, losses=None):
  """The updates of all steps, and the last state.

  Args:
    tx: Transformation.
    history: [T, K, D], the gradients of all steps.
    masks: [T, K], bool. Default: no task is masked.
    losses: [T, K]. Default: the same losses in all steps.
  """
  shape = history.shape[:2]
  masks = np.ones(shape, bool) if masks is None else np.asarray(masks)
  losses = (
    np.tile(np.linspace(1, 1.2, shape[1]), (shape[0], 1)) if losses is None else losses
  )
  kpis = np.linspace(0.4, 0.6, shape[1])
  state, updates, step = tx.init(jnp.zeros(history.shape[2])), [], compiled(tx.update)
  for grads, mask, now in zip(history, masks, losses, strict=True):
    update, state = step(
      jnp.asarray(grads, jnp.float32),
      state,
      task_mask=jnp.asarray(mask),
      losses=jnp.asarray(now, jnp.float32),
      kpis=jnp.asarray(kpis, jnp.float32),
      flat_grads=jnp.asarray(grads, jnp.float32),
    )
    updates.append(update)
  return updates, state


@functools.lru_cache(maxsize=64)
def compiled(update):
  """One compiled function for each update, also in the next test of all methods."""
  return jax.jit(update)


def counts(state, name):
  """A count in the state; `flat_regions` has two states, which count the same."""
  return getattr(getattr(state, "plain", state), name)


def without_counts(state, *names):
  """The state without some of its counts."""
  if hasattr(state, "plain"):
    return [without_counts(part, *names) for part in state]
  return state._replace(**dict.fromkeys(names, ()))
