"""Saves the state of optimisers, and continues from what was saved.

``python -m tests.helpers.checkpoints FOLDER`` continues from the checkpoints in a
folder, in a new process.
"""

import functools
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from maxgnr_jax import aggregators, maxgnr
from tests.helpers.examples import example_params, grads_sequence
from tests.helpers.trees import as_bytes

NUM_TASKS, BEFORE, AFTER = 3, 2, 2
PARAMS = example_params()

# Their states hold momenta, moments, counts, PRNG keys and memory of K×D numbers.
TRANSFORMATIONS = {
  "maxgnr": lambda: optax.chain(maxgnr(num_tasks=NUM_TASKS), optax.adam(0.1)),
  "maxgnr_bfloat16": lambda: maxgnr(num_tasks=NUM_TASKS, momentum_dtype=jnp.bfloat16),
  "maxgnr_sketch": lambda: maxgnr(num_tasks=NUM_TASKS, groups="layer", sketch=7),
  "pcgrad": lambda: optax.chain(
    aggregators.pcgrad(num_tasks=NUM_TASKS), optax.adam(0.1)
  ),
  "graddrop": lambda: aggregators.graddrop(num_tasks=NUM_TASKS),
  "moco": lambda: aggregators.moco(num_tasks=NUM_TASKS),
}


def save(path, state):
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(path, state)


def restore(path, target):
  with ocp.StandardCheckpointer() as checkpointer:
    return checkpointer.restore(path, target)


def like(state, mesh):
  """Shapes, dtypes and shardings to restore, as in the README."""

  def leaf(x):
    sharded = isinstance(x.sharding, NamedSharding)
    sharding = x.sharding if sharded else NamedSharding(mesh, P())
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

  return jax.tree.map(leaf, state)


def follow(tx, state, params, sequence):
  """The last update and state of jitted steps that donate the state."""
  for grads in sequence:
    updates, state = step_of(tx)(grads, state, params)
  return updates, state


@functools.lru_cache(maxsize=8)
def step_of(tx):
  return jax.jit(lambda g, s, p: tx.update(g, s, p), donate_argnums=1)


def gradients():
  return grads_sequence(PARAMS, NUM_TASKS, BEFORE + AFTER)


def continued(name, path):
  """The last update and state after a restart from a checkpoint."""
  tx = TRANSFORMATIONS[name]()
  state = restore(path, tx.init(PARAMS))
  return follow(tx, state, PARAMS, gradients()[BEFORE:])


def main(folder):
  for name in TRANSFORMATIONS:
    np.savez(folder / f"{name}.npz", *as_bytes(continued(name, folder / name)))


if __name__ == "__main__":
  main(Path(sys.argv[1]))
