"""Trains an nnx network with two heads: one names digits, one cleans their images.

``python examples/digits_nnx.py --picture digits.png`` trains on scikit-learn's
handwritten digits, which come with it. The gradients of a cross-entropy are much larger
than those of a mean squared error. MaxGNR chooses the weights that balance them.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from flax import nnx
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from maxgnr_jax import aggregator_state, maxgnr, value_and_task_grads

BATCH = 64
NOISE = 0.3


class Network(nnx.Module):
  def __init__(self, rngs):
    self.trunk = nnx.Sequential(
      nnx.Linear(64, 128, rngs=rngs), nnx.relu, nnx.Linear(128, 64, rngs=rngs), nnx.relu
    )
    self.name = nnx.Linear(64, 10, rngs=rngs)
    self.clean = nnx.Linear(64, 64, rngs=rngs)

  def __call__(self, noisy):
    features = self.trunk(noisy)
    return {"name": self.name(features), "clean": self.clean(features)}


def in_trunk(params):
  """Selects the parameters on which gradients are measured."""
  return jax.tree.map_with_path(lambda path, _: path[0].key == "trunk", params)


@nnx.jit
def train_step(network, optimizer, batch):
  graphdef, params = nnx.split(network, nnx.Param)

  def losses(params):
    outputs = nnx.merge(graphdef, params)(batch["noisy"])
    return {
      "name": optax.softmax_cross_entropy_with_integer_labels(
        outputs["name"], batch["label"]
      ).mean(),
      "clean": jnp.mean((outputs["clean"] - batch["image"]) ** 2),
    }

  values, grads = value_and_task_grads(losses)(params)
  optimizer.update(network, grads)
  return values


def with_noise(random, images, labels):
  noisy = images + NOISE * random.normal(size=images.shape)
  return {"noisy": noisy.astype(np.float32), "image": images, "label": labels}


def draw(path, test, outputs, weights):
  figure = Figure(figsize=(9, 3), layout="constrained")
  left, right = figure.subplots(1, 2, width_ratios=(1.4, 1))
  rows = [test["noisy"], outputs["clean"], test["image"]]
  framed = [
    [np.pad(x.reshape(8, 8), 1, constant_values=1) for x in images[:10]]
    for images in rows
  ]
  mosaic = np.block(framed)
  left.imshow(mosaic, cmap="gray", vmin=0, vmax=1)
  names = outputs["name"].argmax(1)[:10]
  left.set_xticks(10 * np.arange(10) + 4.5, names)
  left.set_yticks([4.5, 14.5, 24.5], ["noisy", "cleaned", "true"])
  left.set_title("test images, and their names by the network")
  right.plot(weights, label=["clean", "name"])
  right.set(xlabel="step", yscale="log", title="task weights")
  right.legend()
  figure.savefig(path, dpi=80)


def main(steps: int = 1500, picture: Path | None = None) -> dict[str, float]:
  digits = load_digits()
  images, test_images, labels, test_labels = train_test_split(
    (digits.data / 16).astype(np.float32), digits.target, random_state=0
  )
  random = np.random.default_rng(0)
  test = with_noise(random, test_images, test_labels)
  network = Network(nnx.Rngs(0))
  tx = optax.chain(
    maxgnr(num_tasks=2, shared=in_trunk, smoothing=0.9),
    optax.adam(optax.cosine_decay_schedule(3e-3, steps)),
  )
  optimizer = nnx.Optimizer(network, tx, wrt=nnx.Param)
  weights = []
  for _ in range(steps):
    rows = random.integers(len(labels), size=BATCH)
    train_step(network, optimizer, with_noise(random, images[rows], labels[rows]))
    weights.append(np.asarray(aggregator_state(optimizer).weights))

  outputs = jax.tree.map(np.asarray, network(test["noisy"]))
  right = np.mean(outputs["name"].argmax(1) == test["label"])
  error = np.mean((outputs["clean"] - test["image"]) ** 2)
  print(f"{right:.1%} of the test digits named right")
  print(f"mean squared error {error:.4f}, of the noisy images {NOISE**2:.4f}")
  if picture:
    draw(picture, test, outputs, np.stack(weights))
  return {"right": float(right), "error": float(error)}


if __name__ == "__main__":
  tyro.cli(main)
