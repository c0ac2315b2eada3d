"""Trains an Equinox network that reads three things from a noisy signal.

``python examples/signals_equinox.py --picture signals.png`` makes sines, squares and
saw teeth, and trains one convolutional trunk whose heads tell the shape, the frequency
and the strength of the noise.
"""

from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from matplotlib.figure import Figure

from maxgnr_jax import diagnostics, maxgnr, task_names, value_and_task_grads

LENGTH, BATCH = 128, 64
SHAPES = ("sine", "square", "saw")


class Trunk(eqx.Module):
  layers: list[eqx.nn.Conv1d]

  def __init__(self, key):
    channels = (1, 16, 32, 32)
    self.layers = [
      eqx.nn.Conv1d(a, b, kernel_size=9, stride=2, key=k)
      for a, b, k in zip(channels, channels[1:], jax.random.split(key, 3), strict=False)
    ]

  def __call__(self, signal):
    x = signal[None]
    for layer in self.layers:
      x = jax.nn.relu(layer(x))
    return jnp.concatenate([x.mean(axis=1), x.max(axis=1)])


class Network(eqx.Module):
  trunk: Trunk
  heads: dict[str, eqx.nn.Linear]

  def __init__(self, key):
    keys = jax.random.split(key, 4)
    self.trunk = Trunk(keys[0])
    self.heads = {
      "shape": eqx.nn.Linear(64, len(SHAPES), key=keys[1]),
      "frequency": eqx.nn.Linear(64, "scalar", key=keys[2]),
      "noise": eqx.nn.Linear(64, "scalar", key=keys[3]),
    }

  def __call__(self, signal):
    features = self.trunk(signal)
    return {name: head(features) for name, head in self.heads.items()}


def make_signals(key, number):
  """Draws signals [number, 128] and what is to be read from them."""
  keys = jax.random.split(key, 5)
  shape = jax.random.randint(keys[0], (number,), 0, len(SHAPES))
  cycles = jax.random.uniform(keys[1], (number, 1), minval=2, maxval=10)
  start = jax.random.uniform(keys[2], (number, 1))
  phase = (start + cycles * jnp.arange(LENGTH) / LENGTH) % 1
  sine = jnp.sin(2 * jnp.pi * phase)
  waves = jnp.stack([sine, jnp.sign(sine), 2 * phase - 1])
  noise = jax.random.uniform(keys[3], (number, 1))
  signal = waves[shape, jnp.arange(number)]
  signal += noise * jax.random.normal(keys[4], signal.shape)
  return {"signal": signal, "shape": shape, "frequency": cycles, "noise": noise}


def losses(trainable, static, batch):
  outputs = jax.vmap(eqx.combine(trainable, static))(batch["signal"])
  return {
    "shape": optax.softmax_cross_entropy_with_integer_labels(
      outputs["shape"], batch["shape"]
    ).mean(),
    "frequency": jnp.mean((outputs["frequency"] - batch["frequency"][:, 0]) ** 2),
    "noise": jnp.mean((outputs["noise"] - batch["noise"][:, 0]) ** 2),
  }


def draw(path, test, outputs):
  figure = Figure(figsize=(9, 3), layout="constrained")
  first, *others = figure.subplots(1, 3)
  for row in range(3):
    first.plot(3.5 * row + test["signal"][row], lw=0.8)
    first.text(0, 3.5 * row + 1.6, SHAPES[outputs["shape"][row].argmax()])
  first.set(title="test signals", yticks=[], xlabel="time")
  for ax, name in zip(others, ("frequency", "noise"), strict=True):
    ax.plot(test[name], outputs[name], ".", ms=3)
    ax.axline((0, 0), slope=1, color="gray", lw=0.8)
    ax.set(title=name, xlabel="true", ylabel="read")
  figure.savefig(path, dpi=80)


def main(steps: int = 2000, picture: Path | None = None) -> dict[str, float]:
  network = Network(jax.random.key(0))
  trainable, static = eqx.partition(network, eqx.is_inexact_array)
  # True in the trunk, where gradients are measured, and False in the heads.
  shared = jax.tree.map(lambda _: False, trainable)
  shared = eqx.tree_at(
    lambda network: network.trunk, shared, jax.tree.map(lambda _: True, trainable.trunk)
  )
  tx = optax.chain(
    maxgnr(num_tasks=3, shared=shared, smoothing=0.9),
    optax.adam(optax.cosine_decay_schedule(3e-3, steps)),
  )
  opt_state = tx.init(trainable)

  @eqx.filter_jit
  def train_step(trainable, opt_state, key):
    batch = make_signals(key, BATCH)
    values, grads = value_and_task_grads(losses)(trainable, static, batch)
    updates, opt_state = tx.update(grads, opt_state, trainable)
    return eqx.apply_updates(trainable, updates), opt_state, values

  for key in jax.random.split(jax.random.key(1), steps):
    trainable, opt_state, values = train_step(trainable, opt_state, key)
  log = diagnostics(opt_state, task_names(values))
  for name in values:
    print(f"{name}: weight {log[f'weights/{name}']:.3f}, GNR {log[f'gnr/{name}']:.2f}")

  test = jax.tree.map(np.asarray, make_signals(jax.random.key(2), 500))
  outputs = jax.jit(jax.vmap(eqx.combine(trainable, static)))(test["signal"])
  outputs = jax.tree.map(np.asarray, outputs)
  found = {
    "shape": np.mean(outputs["shape"].argmax(1) == test["shape"]),
    "frequency": np.mean(np.abs(outputs["frequency"] - test["frequency"][:, 0])),
    "noise": np.mean(np.abs(outputs["noise"] - test["noise"][:, 0])),
  }
  print("{shape:.1%} of the shapes right".format(**found))
  print("off by {frequency:.2f} cycles and {noise:.3f} of noise".format(**found))
  if picture:
    draw(picture, test, outputs)
  return {name: float(x) for name, x in found.items()}


if __name__ == "__main__":
  tyro.cli(main)
