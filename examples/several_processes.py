"""Trains on the devices of several processes.

``python examples/several_processes.py --processes 2`` starts two processes on this
machine. On a cluster start one process on each machine yourself, with the additional
options ``--process-id I --coordinator HOST:PORT``. Any number of processes gives the
same result, up to rounding.
"""

import argparse
import faulthandler
import socket
import subprocess
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from maxgnr_jax import aggregator_state, maxgnr, value_and_task_grads

BATCH, FEATURES, HIDDEN = 32, 16, 8
TARGETS = np.random.default_rng(0).normal(size=(FEATURES, 3))
SCALES = np.array([1.0, 10.0, 0.1])


def losses(params, batch):
  hidden = jnp.tanh(batch["x"] @ params["trunk"])
  errors = jnp.mean((hidden @ params["heads"] - batch["y"]) ** 2, axis=0)
  return {"one": errors[0], "large": errors[1], "small": errors[2]}


def initial_params():
  keys = jax.random.split(jax.random.key(0))
  return {
    "trunk": jax.random.normal(keys[0], (FEATURES, HIDDEN)) / 4,
    "heads": jax.random.normal(keys[1], (HIDDEN, 3)) / 3,
  }


def own_rows(step):
  """Returns this process's rows of a batch.

  In this example every process draws the whole batch; a real one reads its rows only.
  """
  rng = np.random.default_rng(step)
  x = rng.normal(size=(BATCH, FEATURES))
  y = np.sin(x @ TARGETS + 0.1 * rng.normal(size=(BATCH, 3))) * SCALES
  rows = BATCH // jax.process_count()
  own = slice(jax.process_index() * rows, (jax.process_index() + 1) * rows)
  return {"x": x[own].astype(np.float32), "y": y[own].astype(np.float32)}


def train(arguments):
  mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))
  by_rows = NamedSharding(mesh, P("data"))
  everywhere = NamedSharding(mesh, P())
  placed = by_rows if arguments.shard_params else everywhere
  params = jax.jit(initial_params, out_shardings=placed)()
  tx = optax.chain(maxgnr(num_tasks=3), optax.adam(1e-2))
  opt_state = tx.init(params)  # each momentum is sharded as its parameter is

  @jax.jit
  def train_step(params, opt_state, batch):
    # The batch is one array over all processes, and each loss is its mean. So each
    # task's gradients are averaged over the processes before they are weighted.
    values, grads = value_and_task_grads(losses)(params, batch)
    updates, opt_state = tx.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, values

  for step in range(arguments.steps):
    batch = {
      name: jax.make_array_from_process_local_data(by_rows, rows)
      for name, rows in own_rows(step).items()
    }
    params, opt_state, values = train_step(params, opt_state, batch)
    if jax.process_index() == 0 and step % 5 == 0:
      weights = aggregator_state(opt_state).weights
      print(step, {name: f"{value:.4f}" for name, value in values.items()}, weights)

  whole = jax.jit(lambda params: params, out_shardings=everywhere)(params)
  if jax.process_index() == 0 and arguments.out:
    arrays: dict[str, Any] = {name: np.asarray(x) for name, x in whole.items()}
    np.savez(arguments.out, **arrays)


def run_one(arguments):
  """Trains in one of the processes."""
  # If another process fails, this one must not wait for it for ever.
  faulthandler.dump_traceback_later(arguments.timeout, exit=True)
  # On accelerators leave these two lines out.
  jax.config.update("jax_platforms", "cpu")
  jax.config.update("jax_cpu_collectives_implementation", "gloo")
  jax.distributed.initialize(
    arguments.coordinator, arguments.processes, arguments.process_id
  )
  train(arguments)
  jax.distributed.shutdown()


def run_all(arguments):
  """Starts all processes on this machine.

  Returns the exit code of the first that fails, or 0 after all have ended.
  """
  with socket.socket() as free:
    free.bind(("localhost", 0))
    coordinator = f"localhost:{free.getsockname()[1]}"
  command = [sys.executable, *sys.argv, "--coordinator", coordinator]
  children = [
    subprocess.Popen([*command, "--process-id", str(index)])
    for index in range(arguments.processes)
  ]
  try:
    while True:
      codes = [child.poll() for child in children]
      if failed := [code for code in codes if code]:
        return failed[0]
      if None not in codes:
        return 0
      time.sleep(0.1)
  finally:
    for child in children:
      child.kill()
      child.wait()


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--processes", type=int, default=2, help="must divide 32")
  parser.add_argument("--steps", type=int, default=20)
  parser.add_argument("--shard-params", action="store_true", help="over all devices")
  parser.add_argument("--out", help="an .npz file for the parameters")
  parser.add_argument("--timeout", type=float, default=600, help="limit in seconds")
  parser.add_argument("--process-id", type=int, help="run this process only")
  parser.add_argument("--coordinator", help="HOST:PORT of process 0")
  arguments = parser.parse_args()
  if BATCH % arguments.processes:
    parser.error(
      f"--processes must divide the {BATCH} rows of a batch, got {arguments.processes}"
    )
  if arguments.process_id is None:
    return run_all(arguments)
  return run_one(arguments)


if __name__ == "__main__":
  sys.exit(main())
