"""The table, the network, its 16 tasks and their metric."""

import dataclasses
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.io import arff

from benchmarks.experiments import mlp
from benchmarks.experiments.config import FileSettings
from benchmarks.experiments.loading import hold_out, in_order, shuffled
from benchmarks.experiments.metric import Metric
from benchmarks.experiments.problem import Batch, Problem

NUM_TARGETS = 16
_TEST_SHARE = 0.2
_EVALUATED_AT_ONCE = 2_000
# What SciPy raises for files of another kind: IndexError for a row that is too short,
# NotImplementedError for text.
_UNREADABLE = (
  arff.ArffError,
  ValueError,
  StopIteration,
  UnicodeDecodeError,
  IndexError,
  NotImplementedError,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TableSettings(FileSettings):
  """The settings of the network."""

  batch_size: int = 128
  """Rows per step."""
  hidden: int = 128
  """Width of the two hidden layers."""


class Table(NamedTuple):
  """N rows: inputs [N, 61], targets [N, 16] and their names."""

  inputs: np.ndarray
  targets: np.ndarray
  names: tuple[str, ...]


def load(path: Path) -> Table:
  """Loads an ARFF file of numbers whose last 16 columns are the targets.

  Raises:
    ValueError: if it is not such a file.
  """
  if not path.is_file():
    raise ValueError(f"--data must be scm20d as an .arff file, {path} is none")
  try:
    rows, meta = arff.loadarff(path)
  except _UNREADABLE as error:
    raise ValueError(f"{path} cannot be read as an .arff file: {error}") from error
  names = meta.names()
  if len(names) <= NUM_TARGETS or set(meta.types()) != {"numeric"}:
    raise ValueError(
      f"{path} must have inputs and {NUM_TARGETS} targets, all numeric, got "
      f"{len(names)} columns of {', '.join(sorted(set(meta.types())))}"
    )
  values = np.array(rows.tolist(), np.float64)
  if not len(values) or not np.isfinite(values).all():
    raise ValueError(f"{path} must have rows, without missing values")
  targets = tuple(names[-NUM_TARGETS:])
  return Table(values[:, :-NUM_TARGETS], values[:, -NUM_TARGETS:], targets)


def make_problem(settings: TableSettings) -> Problem:
  """Makes the problem from ``settings.data``; a fifth of its rows is the test set.

  Inputs and targets are brought to mean 0 and variance 1 on the training rows.
  """
  table = load(settings.data)
  others, test = hold_out(len(table.inputs), _TEST_SHARE, seed=0)
  kept, validation = hold_out(len(others), settings.validation, seed=1)
  train = others[kept]

  def standardised(values: np.ndarray) -> np.ndarray:
    mean, deviation = values[train].mean(0), values[train].std(0)
    return ((values - mean) / np.where(deviation > 0, deviation, 1)).astype(np.float32)

  whole = {
    "inputs": standardised(table.inputs),
    "targets": standardised(table.targets),
  }
  rows = {"train": train, "validation": others[validation], "test": test}
  parts = {
    split: {name: array[index] for name, array in whole.items()}
    for split, index in rows.items()
  }
  # In the order of a dict's leaves, sorted.
  tasks = tuple(sorted(table.names))
  columns = {task: table.names.index(task) for task in tasks}

  def errors(outputs, batch: Batch) -> dict[str, jax.Array]:
    return {
      task: (outputs[task][:, 0] - batch["targets"][:, column]) ** 2
      for task, column in columns.items()
    }

  def losses(outputs, batch: Batch) -> dict[str, jax.Array]:
    return {task: jnp.mean(error) for task, error in errors(outputs, batch).items()}

  def kpis(outputs, batch: Batch) -> dict[str, jax.Array]:
    """Computes the explained share of each target's variance, which is 1."""
    every = losses(outputs, batch)
    return {task: jnp.clip(1 - error, 0, 1) for task, error in every.items()}

  def sums(outputs, batch: Batch) -> dict[str, jax.Array]:
    of_task = errors(outputs, batch)
    # The training mean, which predicts nothing, is 0.
    return {
      "error": jnp.stack([jnp.sum(of_task[task]) for task in tasks]),
      "total": jnp.sum(batch["targets"] ** 2, axis=0)[jnp.array([*columns.values()])],
    }

  def summarise(total) -> dict[str, float]:
    ratios = 100 * np.sqrt(total["error"] / total["total"])
    return dict(zip(tasks, ratios.tolist(), strict=True))

  return Problem(
    title=f"scm20d, {len(table.inputs)} rows",
    tasks=tasks,
    metrics=tuple(Metric(task, task, "RRMSE %", -1, 2) for task in tasks),
    num_train=len(train),
    inputs="inputs",
    make_model=lambda rngs: mlp.MLP(
      table.inputs.shape[1], settings.hidden, dict.fromkeys(tasks, 1), rngs
    ),
    trunk_only=mlp.trunk_only,
    layers=mlp.layers,
    last_layer=mlp.last_layer,
    last_bias=mlp.last_bias,
    losses=losses,
    kpis=kpis,
    sums=sums,
    summarise=summarise,
    train_batches=lambda size, seed: shuffled(parts["train"], size, seed),
    evaluation_batches=lambda split: (
      in_order(parts[split], _EVALUATED_AT_ONCE) if len(rows[split]) else iter(())
    ),
  )


SETTINGS = TableSettings
