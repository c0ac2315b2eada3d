"""Trains a linen ``TrainState`` on two tasks: the kind of a tumour, and a size.

``python examples/tumours_linen.py --picture tumours.png`` tells malignant tumours from
benign ones, and estimates the area of the largest nuclei, from ten means over all
nuclei of an image (scikit-learn's breast cancer data, which come with it).
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from flax import linen as nn
from flax.training.train_state import TrainState
from matplotlib.figure import Figure
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import scale

from maxgnr_jax import diagnostics, maxgnr, task_names, value_and_task_grads

BATCH = 32


class Network(nn.Module):
  @nn.compact
  def __call__(self, means):
    features = nn.tanh(nn.Dense(32, name="trunk")(means))
    return {
      "kind": nn.Dense(1, name="kind")(features)[:, 0],
      "area": nn.Dense(1, name="area")(features)[:, 0],
    }


def in_trunk(params):
  """Selects the parameters on which gradients are measured."""
  return jax.tree.map_with_path(lambda path, _: path[1].key == "trunk", params)


@jax.jit
def train_step(state, batch):
  def losses(params):
    outputs = state.apply_fn(params, batch["means"])
    return {
      "kind": optax.sigmoid_binary_cross_entropy(outputs["kind"], batch["kind"]).mean(),
      "area": jnp.mean((outputs["area"] - batch["area"]) ** 2),
    }

  values, grads = value_and_task_grads(losses)(state.params)
  return state.apply_gradients(grads=grads), values


def read_data():
  cancer = load_breast_cancer()
  worst_area = cancer.data[:, list(cancer.feature_names).index("worst area")]
  data = {
    "means": scale(cancer.data[:, :10]).astype(np.float32),
    "kind": cancer.target.astype(np.float32),  # 1 is benign
    "area": scale(worst_area).astype(np.float32),
  }
  rows = train_test_split(np.arange(len(worst_area)), random_state=0)
  return tuple({name: x[some] for name, x in data.items()} for some in rows)


def draw(path, test, outputs):
  figure = Figure(figsize=(6, 3.5), layout="constrained")
  ax = figure.subplots()
  for kind, name in enumerate(("malignant", "benign")):
    rows = test["kind"] == kind
    ax.plot(test["area"][rows], outputs["area"][rows], ".", label=name)
  wrong = (outputs["kind"] > 0) != test["kind"]
  ax.plot(
    test["area"][wrong],
    outputs["area"][wrong],
    "o",
    mfc="none",
    c="k",
    label="mistaken",
  )
  ax.axline((0, 0), slope=1, color="gray", lw=0.8)
  ax.set(xlabel="largest area, standard units", ylabel="estimate", title="test tumours")
  ax.legend()
  figure.savefig(path, dpi=80)


def main(steps: int = 1000, picture: Path | None = None) -> dict[str, float]:
  train, test = read_data()
  network = Network()
  state = TrainState.create(
    apply_fn=network.apply,
    params=network.init(jax.random.key(0), test["means"]),
    tx=optax.chain(
      maxgnr(num_tasks=2, shared=in_trunk, smoothing=0.9),
      optax.adam(optax.cosine_decay_schedule(3e-3, steps)),
    ),
  )
  random = np.random.default_rng(0)
  for _ in range(steps):
    rows = random.integers(len(train["kind"]), size=BATCH)
    state, values = train_step(state, {name: x[rows] for name, x in train.items()})
  log = diagnostics(state.opt_state, task_names(values))
  for name in values:
    print(f"{name}: weight {log[f'weights/{name}']:.3f}, GNR {log[f'gnr/{name}']:.2f}")

  outputs = jax.tree.map(np.asarray, state.apply_fn(state.params, test["means"]))
  right = np.mean((outputs["kind"] > 0) == test["kind"])
  error = np.mean((outputs["area"] - test["area"]) ** 2)
  print(f"{right:.1%} of the test tumours right")
  print(f"{error:.1%} of the area's variance left")
  if picture:
    draw(picture, test, outputs)
  return {"right": float(right), "error": float(error)}


if __name__ == "__main__":
  tyro.cli(main)
