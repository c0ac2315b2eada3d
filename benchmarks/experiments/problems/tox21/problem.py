"""The network, its binary tasks with missing labels, and their metric."""

import dataclasses
import json
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.stats import rankdata

from benchmarks.experiments import mlp
from benchmarks.experiments.config import FileSettings
from benchmarks.experiments.loading import in_order, shuffled
from benchmarks.experiments.metric import Metric
from benchmarks.experiments.problem import Batch, Problem
from benchmarks.experiments.problems.tox21.data import BITS, Molecules, load
from benchmarks.experiments.tables import Reference

LOGISTIC = "logistic.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class MoleculeSettings(FileSettings):
  """The settings of the network."""

  batch_size: int = 128
  """Molecules per step."""
  validation: float = 0.1
  """Above 0: choose settings on the file's validation split. 0: train on it too."""
  hidden: int = 128
  """Width of the two hidden layers."""


def make_problem(settings: MoleculeSettings) -> Problem:
  """Makes the problem from ``settings.data``, which says how it is divided.

  A batch holds ``bits`` [N, 1024] and ``label`` [N, K], in the order of the file.
  """
  molecules = load(settings.data)
  parts = divided(molecules, hold_out=settings.validation > 0)
  # In the order of a dict's leaves, sorted.
  tasks = tuple(sorted(molecules.names))
  columns = {task: molecules.names.index(task) for task in tasks}

  def label_of(batch: Batch, task: str) -> jax.Array:
    return batch["label"][:, columns[task]]

  def losses(outputs, batch: Batch) -> dict[str, jax.Array]:
    return {
      task: cross_entropy(outputs[task][:, 0], label_of(batch, task)) for task in tasks
    }

  def kpis(outputs, batch: Batch) -> dict[str, jax.Array]:
    return {
      task: probability_of_truth(outputs[task][:, 0], label_of(batch, task))
      for task in tasks
    }

  def labelled(batch: Batch) -> dict[str, jax.Array]:
    return {task: jnp.any(label_of(batch, task) >= 0) for task in tasks}

  def sums(outputs, batch: Batch) -> dict[str, jax.Array]:
    """Returns scores and labels, [N, K]: ranks need all molecules in one batch."""
    return {
      "score": jnp.concatenate([outputs[task] for task in tasks], axis=1),
      "label": jnp.stack([label_of(batch, task) for task in tasks], axis=1),
    }

  def summarise(total: dict[str, np.ndarray]) -> dict[str, float]:
    both = zip(tasks, total["score"].T, total["label"].T, strict=True)
    return {task: roc_auc(score, label) for task, score, label in both}

  def evaluation_batches(split: str) -> Iterator[Batch]:
    rows = len(parts[split]["label"])
    return in_order(parts[split], rows) if rows else iter(())

  return Problem(
    title=f"Tox21, {len(molecules.bits)} molecules",
    tasks=tasks,
    metrics=tuple(Metric(task, task, "ROC-AUC %", 1, 1) for task in tasks),
    num_train=len(parts["train"]["label"]),
    inputs="bits",
    make_model=lambda rngs: mlp.MLP(
      BITS, settings.hidden, dict.fromkeys(tasks, 1), rngs
    ),
    trunk_only=mlp.trunk_only,
    layers=mlp.layers,
    last_layer=mlp.last_layer,
    last_bias=mlp.last_bias,
    losses=losses,
    kpis=kpis,
    labelled=labelled,
    sums=sums,
    summarise=summarise,
    train_batches=lambda size, seed: shuffled(parts["train"], size, seed),
    evaluation_batches=evaluation_batches,
  )


def divided(molecules: Molecules, hold_out: bool) -> dict[str, Batch]:
  """Divides the molecules as their file says.

  Args:
    molecules: All of them.
    hold_out: Whether the validation split is held out; otherwise it is trained on.
  """
  rows = {
    "train": molecules.rows("train", *([] if hold_out else ["validation"])),
    "validation": molecules.rows(*(["validation"] if hold_out else [])),
    "test": molecules.rows("test"),
  }
  return {
    split: {"bits": molecules.bits[index], "label": molecules.label[index]}
    for split, index in rows.items()
  }


def cross_entropy(logit: jax.Array, label: jax.Array) -> jax.Array:
  """Averages the cross-entropy over measured labels; 0 if there are none.

  Args:
    logit: [N].
    label: [N], -1 where it was not measured.
  """
  known = label >= 0
  truth = jnp.where(known, label, 0).astype(logit.dtype)
  return _mean(optax.sigmoid_binary_cross_entropy(logit, truth), known)


def probability_of_truth(logit: jax.Array, label: jax.Array) -> jax.Array:
  """Averages the probability of the true label, first within each label.

  So rare positives count as much as negatives; a constant output has 0.5. A label that
  does not occur is left out.
  """
  positive, negative = label == 1, label == 0
  of_class = jnp.stack(
    [_mean(jax.nn.sigmoid(logit), positive), _mean(jax.nn.sigmoid(-logit), negative)]
  )
  return _mean(of_class, jnp.stack([jnp.any(positive), jnp.any(negative)]))


def _mean(values: jax.Array, chosen: jax.Array) -> jax.Array:
  number = jnp.maximum(chosen.sum(), 1).astype(values.dtype)
  return jnp.where(chosen, values, 0).sum() / number


def roc_auc(score: np.ndarray, label: np.ndarray) -> float:
  """Computes the area under the ROC curve in percent, over measured labels.

  It is the share of pairs of a positive and a negative that the scores order rightly;
  ties count half.

  Args:
    score: [N]; NaN if one of a measured molecule is not finite.
    label: [N], -1 where it was not measured.
  """
  score, label = score[label >= 0], label[label >= 0]
  if not np.isfinite(score).all():
    return float("nan")
  positives = np.sum(label == 1)
  pairs = positives * np.sum(label == 0)
  ranks = rankdata(score)[label == 1].sum() - positives * (positives + 1) / 2
  return float(100 * ranks / pairs)


def reference(settings: MoleculeSettings) -> Reference | None:
  """Reads the row of a logistic regression for each task, if it is in the folder.

  ``python -m benchmarks.experiments.problems.tox21.logistic`` writes it.
  """
  path = settings.out / LOGISTIC
  if not path.is_file():
    return None
  tasks = json.loads(path.read_text())["tasks"]
  row = {name: of_task["test"] for name, of_task in tasks.items()}
  return Reference("scikit-learn", {"logistic, single-task": row})


SETTINGS = MoleculeSettings
