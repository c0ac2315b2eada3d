"""The description of a problem: its data, its model and its tasks."""

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
    title: Its name in tables; problems with different results have different titles.
    tasks: Sorted names.
    metrics: The columns of its table, task by task.
    num_train: Examples of an epoch.
    inputs: Name of the array of a batch that the model takes.
    make_model: Takes :class:`flax.nnx.Rngs`, returns a model from inputs to outputs.
    trunk_only: Takes the parameters, returns bools: True where tasks share them.
    losses: Takes outputs and batch, returns each task's loss, a dict of scalars. That
      of a task without labels must be finite.
    kpis: Takes outputs and batch, returns each task's key performance indicator in
      [0, 1], a dict of scalars.
    sums: Takes outputs and batch, returns a dict of arrays to be added over batches.
    summarise: Takes such sums over all batches, returns the metrics.
    train_batches: Takes batch size and seed, returns an endless data set whose element
      t is the batch of step t.
    evaluation_batches: Takes ``"train"``, ``"validation"`` or ``"test"``, returns
      batches that hold each of its examples once; none if it has no examples.
    layers: Takes the parameters, returns labels that are equal within a layer, for
      methods with weights for each layer. None if the problem has no such labels.
    last_layer: Takes the parameters, returns bools: True in the last layer that the
      tasks share, for methods that measure gradients there. None if the problem does
      not say which it is.
    last_bias: The same for the bias of that layer alone.
    labelled: Takes a batch, returns bools: whether it has labels of each task. A task
      without labels takes no part in the step. None if every batch has labels of all.
    baseline: The row that Δm is relative to: ``"single-task"``, models of one task
      each, or a method if no task can be trained alone. All metrics then judge the
      whole model.
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
  last_layer: Callable[[nnx.State], Any] | None = None
  last_bias: Callable[[nnx.State], Any] | None = None
  labelled: Callable[[Batch], dict[str, jax.Array]] | None = None
  baseline: str = "single-task"

  def metrics_of(self, task: str) -> tuple[Metric, ...]:
    """Lists the metrics that judge one task."""
    return tuple(metric for metric in self.metrics if metric.task == task)
