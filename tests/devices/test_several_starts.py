"""Compiled and exported steps on a mesh can be used by other processes."""

import importlib.util
import os
import subprocess
import sys

import jax
import pytest
from jax.export import deserialize, export

from maxgnr_jax import maxgnr
from tests.devices.meshes import PARAMS, SPECS, STACKED, make_mesh, put
from tests.helpers.commands import quick_environment
from tests.helpers.examples import random_grads
from tests.helpers.trees import assert_trees_close

# A method of gradients, and one of losses that measures gradients' norms as well.
PROGRAM = """
import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from maxgnr_jax import aggregators, maxgnr

mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
rows = jnp.stack([jnp.eye(4)[0] * 3.0, jnp.full(4, 4.0)])
grads = jax.device_put(rows, NamedSharding(mesh, PartitionSpec(None, "data")))
params = jax.device_put(rows[0], NamedSharding(mesh, PartitionSpec("data")))

for tx in (maxgnr(num_tasks=2), aggregators.db_mtl(num_tasks=2)):

  def train_step(grads, state, params, losses, tx=tx):
    return tx.update(grads, state, params, losses=losses)

  jax.jit(train_step)(grads, tx.init(params), params, jnp.ones(2))
"""


@pytest.mark.thorough
def test_a_second_start_finds_all_that_the_first_one_compiled(tmp_path):
  environment = quick_environment() | {
    "JAX_PLATFORMS": "cpu",
    "JAX_COMPILATION_CACHE_DIR": str(tmp_path),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
  }
  environment["XLA_FLAGS"] += " --xla_force_host_platform_device_count=4"
  entries = []
  for _ in range(2):
    command = [sys.executable, "-c", PROGRAM]
    child = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert child.returncode == 0, child.stderr[-3000:]
    entries.append(sorted(n for n in os.listdir(tmp_path) if n.endswith("-cache")))
  assert sum("train_step" in name for name in entries[0]) == 2
  assert entries[1] == entries[0]


@pytest.mark.thorough
@pytest.mark.usefixtures("quick_compilation")
def test_an_exported_step_gives_the_update_of_the_step_itself():
  mesh, tx = make_mesh(data=2), maxgnr(num_tasks=3)
  grads = put(random_grads(PARAMS, 3), STACKED, mesh)
  params = put(PARAMS, SPECS, mesh)
  leaves, treedef = jax.tree.flatten(tx.init(params))  # leaves can be serialised

  def step(grads, leaves, params):
    return tx.update(grads, jax.tree.unflatten(treedef, leaves), params)[0]

  program = export(jax.jit(step))(grads, leaves, params)
  if importlib.util.find_spec("flatbuffers"):
    program = deserialize(program.serialize())
  assert program.nr_devices == 4
  found = jax.jit(program.call)(grads, leaves, params)
  expected = jax.jit(step)(*jax.device_get((grads, leaves, params)))
  assert_trees_close(found, expected, rtol=1e-5, atol=1e-6)
