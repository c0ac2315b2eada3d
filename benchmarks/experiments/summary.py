"""Summarises the results of many runs in one small file, which is committed."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks.experiments.metric import (
  Metric,
  delta_m,
  mean_over_seeds,
  mean_ranks,
)
from benchmarks.experiments.problem import Problem
from benchmarks.experiments.tuning import Row, is_at_edge
from benchmarks.machine import describe_machine

# The models of a run that are judged.
JUDGED = ("last", "best")


def caption(judged: str, settings: Mapping[str, Any]) -> str:
  """Says in a table what model is judged in runs of these settings."""
  if judged == "best":
    return "the model that is best on the training set"
  if settings.get("schedule") == "cosine":  # older results do not have it
    return "the model at the end of training"
  return "mean over the last epochs, 10 at most"


def baseline_of(summary: Mapping[str, Any]) -> tuple[str, str]:
  """Returns the name of the row that Δm is relative to, and how a text calls it."""
  name = summary.get("baseline", "single-task")  # older results have no other
  return name, "single-task models" if name == "single-task" else name


class Found(NamedTuple):
  """One row's runs at the learning rate that was chosen.

  Attributes:
    learning_rate: The chosen one.
    scores: Learning rate -> Δm % on the validation data; empty if there was no choice.
    results: Results of :func:`benchmarks.experiments.train.train`, by seed.
  """

  learning_rate: float
  scores: dict[float, float]
  results: list[dict[str, Any]]


def summarise(
  problem: Problem,
  found: Mapping[Row, Found],
  described: Mapping[str, Any],
) -> dict[str, Any]:
  """Collects every published number, per seed, and how to reproduce it."""
  metrics = problem.metrics
  single = {tasks[0]: f for (_, tasks), f in found.items() if tasks}
  joint = {method: f for (method, tasks), f in found.items() if not tasks}
  rows: dict[str, Any] = {}
  if single:
    rows["single-task"] = {
      "learning_rates": {task: f.learning_rate for task, f in single.items()},
      "validation": {task: _keys(f.scores) for task, f in single.items()},
      "at_edge": any(is_at_edge(f.scores, f.learning_rate) for f in single.values()),
      "test": _on_test({metric.name: single[metric.task] for metric in metrics}),
    }
  for method, f in joint.items():
    rows[method] = {
      "learning_rate": f.learning_rate,
      "validation": _keys(f.scores),
      "at_edge": is_at_edge(f.scores, f.learning_rate),
      "test": _on_test({metric.name: f for metric in metrics}),
    }
  for judged in JUDGED:
    _sum_up(rows, judged, [m for m in metrics if m.in_delta_m], problem.baseline)
  return {
    **described,
    "problem": problem.title,
    "tasks": list(problem.tasks),
    "baseline": problem.baseline,
    "metrics": [metric._asdict() for metric in metrics],
    "machine": describe_machine(),
    "rows": rows,
  }


def _on_test(found: Mapping[str, Found]) -> dict[str, dict[str, list[float]]]:
  """Collects the metrics of the models that they judge: model -> metric -> values."""
  return {
    judged: {
      name: [run[judged]["test"][name] for run in f.results]
      for name, f in found.items()
    }
    for judged in JUDGED
  }


def _sum_up(
  rows: dict[str, Any], judged: str, metrics: Sequence[Metric], baseline: str
) -> None:
  """Adds Δm of each seed, and the mean rank among all rows."""
  runs = {name: _by_seed(row["test"][judged]) for name, row in rows.items()}
  means = {name: mean_over_seeds(of_row, metrics) for name, of_row in runs.items()}
  ranks = mean_ranks([*means.values()], metrics)
  for (name, row), rank in zip(rows.items(), ranks, strict=True):
    row.setdefault("mean_rank", {})[judged] = rank
    row.setdefault("delta_m", {})[judged] = [
      delta_m(run, means[baseline], metrics) for run in runs[name]
    ]


def _by_seed(values: Mapping[str, Sequence[float]]) -> list[dict[str, float]]:
  """Turns metric -> values by seed into the metrics of each seed."""
  seeds = zip(*values.values(), strict=True)
  return [dict(zip(values, seed, strict=True)) for seed in seeds]


def _keys(scores: Mapping[float, float]) -> dict[str, float]:
  return {f"{rate:g}": score for rate, score in scores.items()}
