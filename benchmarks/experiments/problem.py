"""What an experiment needs to know of its data, its model and its tasks."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import grain
import jax
from flax import nnx

from benchmarks.experiments.metric import Metric

Batch = dict[str, Any]  # of arrays, examples on the leading axis
SPLITS = ("validation", "test")


@dataclasses.dataclass(frozen=True)
class Problem:
  """Data, model, losses and metrics of several tasks.

  Attributes:
    title: What it is called in tables, with what makes its results another's.
    tasks: Sorted names.
    metrics: The columns of its table, task by task.
    num_train: Examples to train on: an epoch.
    inputs: Which array of a batch the model takes.
    make_model: From :class:`flax.nnx.Rngs` to a model: inputs to outputs.
    trunk_only: From the parameters to bools, True where tasks share them.
    layers: From the parameters to labels, the same for all parameters of a layer, for
      methods that weight the tasks in each layer; None if there are no such labels.
    losses: From outputs and batch to a dict of scalars.
    kpis: Likewise, the tasks' key performance indicators in [0, 1].
    sums: From outputs and batch to a dict of arrays that add up over batches.
    summarise: From such sums, added up, to the metrics.
    train_batches: From batch size and seed to an endless data set, whose element t is
      the batch of step t.
    evaluation_batches: From ``"train"``, ``"validation"`` or ``"test"`` to the batches
      of all its examples; none, if there are no such examples.
  """

  title: str
  tasks: tuple[str, ...]
  metrics: tuple[Metric, ...]
  num_train: int
  inputs: str
  make_model: Callable[[nnx.Rngs], nnx.Module]
  trunk_only: Callable[[nnx.State], Any]
  losses: Callable[[Any, Batch], dict[str, jax.Array]]
  kpis: Callable[[Any, Batch], dict[str, jax.Array]]
  sums: Callable[[Any, Batch], dict[str, jax.Array]]
  summarise: Callable[[dict[str, Any]], dict[str, float]]
  train_batches: Callable[[int, int], grain.MapDataset]
  evaluation_batches: Callable[[str], Iterable[Batch]]
  layers: Callable[[nnx.State], Any] | None = None

  def metrics_of(self, task: str) -> tuple[Metric, ...]:
    """The metrics that judge one task."""
    return tuple(metric for metric in self.metrics if metric.task == task)
