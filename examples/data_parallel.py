"""Trains on several devices, with whole or sharded parameters (data parallel, FSDP).

``python examples/data_parallel.py --picture devices.png`` makes eight virtual devices
out of the CPU and trains with replicated parameters; ``--fsdp`` keeps an eighth of each
parameter, of each task's momentum and of Adam's on each device. The step is the same as
on one device, because the compiler finds out what has to travel. On a machine with
accelerators leave out ``jax.config.update``.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from matplotlib.figure import Figure

from maxgnr_jax import MaxGNRState, aggregator_state, maxgnr, value_and_task_grads

DEVICES, BATCH, FEATURES, HIDDEN = 8, 256, 32, 64
SCALES = {"small": 0.1, "usual": 1.0, "large": 10.0}


def initial_params(key):
  keys = jax.random.split(key, 2 + len(SCALES))

  def normal(key, *shape):
    return jax.random.normal(key, shape) / np.sqrt(shape[0])

  return {
    "trunk": [normal(keys[0], FEATURES, HIDDEN), normal(keys[1], HIDDEN, HIDDEN)],
    "heads": {
      name: normal(key, HIDDEN) for name, key in zip(SCALES, keys[2:], strict=True)
    },
  }


def losses(params, batch):
  features = batch["x"]
  for kernel in params["trunk"]:
    features = jnp.tanh(features @ kernel)
  # Each loss is a mean over the whole batch, so that a task's gradients are averaged
  # over the devices before they are weighted.
  return {
    name: jnp.mean((features @ head - batch[name]) ** 2)
    for name, head in params["heads"].items()
  }


def draw_batch(key):
  x = jax.random.normal(key, (BATCH, FEATURES))
  batch = {"x": x}
  for i, (name, scale) in enumerate(SCALES.items()):
    batch[name] = scale * jnp.sin(x[:, i] + x[:, i + 1] * x[:, i + 2])
  return batch


def draw(path, params, history):
  figure = Figure(figsize=(9, 3), layout="constrained")
  left, right = figure.subplots(1, 2)
  kernel = params["trunk"][1]
  owner = np.zeros(kernel.shape)
  for shard in kernel.addressable_shards:
    owner[shard.index] = shard.device.id
  image = left.imshow(owner, cmap="tab10", vmin=-0.5, vmax=9.5)
  bar = figure.colorbar(image, ax=left, label="device")
  bar.set_ticks(range(DEVICES))
  bar.ax.set_ylim(-0.5, DEVICES - 0.5)
  left.set(title="who holds which part of a kernel", xticks=[], yticks=[])
  for name, scale in SCALES.items():
    right.plot(np.array(history[name]) / scale**2, label=name, lw=0.8)
  right.set(xlabel="step", yscale="log", title="losses, in units of the targets")
  right.legend()
  figure.savefig(path, dpi=80)


def main(
  steps: int = 400, fsdp: bool = False, picture: Path | None = None
) -> dict[str, list[float]]:
  mesh = jax.make_mesh((DEVICES,), ("data",), axis_types=(AxisType.Auto,))
  by_rows, everywhere = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())
  params = jax.jit(initial_params, out_shardings=by_rows if fsdp else everywhere)(
    jax.random.key(0)
  )
  tx = optax.chain(
    maxgnr(num_tasks=len(SCALES), shared={"trunk": True, "heads": False}),
    optax.adam(3e-3),
  )
  opt_state = tx.init(params)  # each momentum is placed as its parameter is

  @jax.jit
  def train_step(params, opt_state, batch):
    values, grads = value_and_task_grads(losses)(params, batch)
    updates, opt_state = tx.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, values

  history: dict[str, list[float]] = {name: [] for name in SCALES}
  for key in jax.random.split(jax.random.key(1), steps):
    batch = jax.device_put(draw_batch(key), by_rows)
    params, opt_state, values = train_step(params, opt_state, batch)
    for name, value in values.items():
      history[name].append(float(value))

  state = aggregator_state(opt_state)
  assert isinstance(state, MaxGNRState)
  momentum = state.momentum["trunk"][0]
  shard = momentum.addressable_shards[0].data.shape
  print(f"a momentum {momentum.shape}, on each device {shard}")
  print({name: f"{loss[0]:.4f} -> {loss[-1]:.4f}" for name, loss in history.items()})
  if picture:
    draw(picture, params, history)
  return history


if __name__ == "__main__":
  jax.config.update("jax_num_cpu_devices", DEVICES)
  tyro.cli(main)
