"""Trains on assays of molecules, most of which were never made.

``python examples/missing_labels.py --picture labels.png`` makes up molecules, as bits,
and six assays with rare positives, which measured 90 to 1 % of the molecules.
``task_mask=`` says which assays have a label in a batch; the others keep their momentum
and wait. The same network is also trained on each assay alone, with no labels of the
others.
"""

import operator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from flax import nnx
from matplotlib.figure import Figure
from sklearn.metrics import roc_auc_score

from maxgnr_jax import aggregator_state, maxgnr, value_and_task_grads

BITS, MOLECULES, BATCH = 128, 3000, 64
MEASURED = {"a": 0.9, "b": 0.6, "c": 0.3, "d": 0.1, "e": 0.03, "f": 0.01}


def make_molecules(random, number):
  """Returns bits [N, 128], and for each assay which molecules are active [N, K]."""
  bits = (random.random((number, BITS)) < 0.1).astype(np.float32)
  # All assays react to the same four properties of a molecule, each in its own way.
  fixed = np.random.default_rng(0)
  properties = bits @ fixed.normal(size=(BITS, 4))
  scores = np.tanh(properties) @ fixed.normal(size=(4, len(MEASURED)))
  return bits, scores > np.quantile(scores, 0.9, axis=0)


class Network(nnx.Module):
  def __init__(self, rngs):
    self.trunk = nnx.Sequential(
      nnx.Linear(BITS, 64, rngs=rngs), nnx.relu, nnx.Linear(64, 32, rngs=rngs), nnx.relu
    )
    self.heads = nnx.Dict({task: nnx.Linear(32, 1, rngs=rngs) for task in MEASURED})

  def __call__(self, bits):
    features = self.trunk(bits)
    return {task: head(features)[:, 0] for task, head in self.heads.items()}


def in_trunk(params):
  """Selects the parameters on which gradients are measured."""
  return jax.tree.map_with_path(lambda path, _: path[0].key == "trunk", params)


def mean_over_labelled(scores, active, labelled):
  """Returns the mean loss of the molecules that an assay measured, or 0 without any."""
  losses = optax.sigmoid_binary_cross_entropy(scores, active)
  return jnp.sum(losses, where=labelled) / jnp.maximum(jnp.sum(labelled), 1)


@nnx.jit
def train_step(network, optimizer, batch):
  graphdef, params = nnx.split(network, nnx.Param)

  def losses(params):
    scores = nnx.merge(graphdef, params)(batch["bits"])
    return {
      task: mean_over_labelled(scores[task], batch["active"][task], labelled)
      for task, labelled in batch["labelled"].items()
    }

  values, grads = value_and_task_grads(losses)(params)
  mask = {task: jnp.any(labelled) for task, labelled in batch["labelled"].items()}
  optimizer.update(network, grads, task_mask=mask)
  return values


def train(tx, data, steps):
  """Returns a network, and the number of steps in which each task was active."""
  network = Network(nnx.Rngs(0))
  optimizer = nnx.Optimizer(network, tx, wrt=nnx.Param)
  random = np.random.default_rng(1)
  for _ in range(steps):
    rows = random.integers(MOLECULES, size=BATCH)
    batch = jax.tree.map(operator.itemgetter(rows), data)
    train_step(network, optimizer, batch)
  return network, np.asarray(aggregator_state(optimizer).task_count)


def draw(path, scores):
  figure = Figure(figsize=(6, 3), layout="constrained")
  ax = figure.subplots()
  for name, of_tasks in scores.items():
    ax.plot(list(of_tasks.values()), "o-", label=name)
  ax.set_xticks(range(len(MEASURED)), [f"{x:.0%}" for x in MEASURED.values()])
  ax.set(xlabel="molecules that the assay measured", ylabel="ROC-AUC on test molecules")
  ax.legend()
  figure.savefig(path, dpi=80)


def main(steps: int = 800, picture: Path | None = None) -> dict[str, dict[str, float]]:
  random = np.random.default_rng(0)
  bits, active = make_molecules(random, MOLECULES)
  test_bits, test_active = make_molecules(random, 2000)
  labelled = random.random(active.shape) < list(MEASURED.values())
  data = {
    "bits": bits,
    "active": dict(zip(MEASURED, active.T.astype(np.float32), strict=True)),
    "labelled": dict(zip(MEASURED, labelled.T, strict=True)),
  }
  tx = optax.chain(
    maxgnr(num_tasks=len(MEASURED), shared=in_trunk, smoothing=0.9),
    optax.adam(optax.cosine_decay_schedule(3e-3, steps)),
  )
  joint, counts = train(tx, data, steps)
  print("steps with labels:", dict(zip(MEASURED, counts.tolist(), strict=True)))
  scores = {"all assays together": joint(test_bits), "each alone": {}}
  for task in MEASURED:
    own = {
      other: labelled if other == task else np.zeros_like(labelled)
      for other, labelled in data["labelled"].items()
    }
    alone, _ = train(tx, data | {"labelled": own}, steps)
    scores["each alone"][task] = alone(test_bits)[task]
  areas = {
    name: {
      task: float(roc_auc_score(is_active, of_tasks[task]))
      for task, is_active in zip(MEASURED, test_active.T, strict=True)
    }
    for name, of_tasks in scores.items()
  }
  for name, of_tasks in areas.items():
    print(f"ROC-AUC, {name}:", {task: round(x, 2) for task, x in of_tasks.items()})
  if picture:
    draw(picture, areas)
  return areas


if __name__ == "__main__":
  tyro.cli(main)
