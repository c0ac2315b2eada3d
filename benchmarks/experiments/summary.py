"""Summarises the results of many runs in one small file, which is committed."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks.experiments.metric import (
  Metric,
  delta_m,
  mean_over_seeds,
  mean_ranks,
)
from benchmarks.experiments.problem import SPLITS, Problem
from benchmarks.experiments.tuning import Row, is_at_edge
from benchmarks.machine import describe_machine

# The models of a run: the last, and the best on the training set.
_MODELS = ("last", "best")
# The share of a run's epochs after which the curves should be flat.
_ALMOST_DONE = 0.8


def judged_models(settings: Mapping[str, Any]) -> tuple[str, ...]:
  """Lists the models by which runs of these settings are judged, for tables.

  They are the paper's two, but only the last one where the learning rate falls to 0.
  """
  return _MODELS[:1] if settings.get("schedule") == "cosine" else _MODELS


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
  single = {row.tasks[0]: f for row, f in found.items() if row.tasks}
  joint = {row: f for row, f in found.items() if not row.tasks}
  rows: dict[str, Any] = {}
  of_metric: dict[str, dict[str, Found]] = {}
  if single:
    of_metric["single-task"] = {m.name: single[m.task] for m in metrics}
    rows["single-task"] = {
      "learning_rates": {task: f.learning_rate for task, f in single.items()},
      "validation": {task: _keys(f.scores) for task, f in single.items()},
      "at_edge": any(is_at_edge(f.scores, f.learning_rate) for f in single.values()),
    }
  for row, f in joint.items():
    of_metric[row.method] = {m.name: f for m in metrics}
    weights = {"weights": list(row.weights)} if row.weights else {}
    rows[row.method] = weights | {
      "learning_rate": f.learning_rate,
      "validation": _keys(f.scores),
      "at_edge": is_at_edge(f.scores, f.learning_rate),
    }
  judged_on = [metric for metric in metrics if metric.in_delta_m]
  for name, row in rows.items():
    row["test"] = {judged: _on_test(of_metric[name], judged) for judged in _MODELS}
  for judged in _MODELS:
    _sum_up(rows, judged, judged_on, problem.baseline)
  base = of_metric[problem.baseline]
  for name, row in rows.items():
    row["change_at_end"] = _change_at_end(of_metric[name], base, judged_on)
  return {
    **described,
    "problem": problem.title,
    "tasks": list(problem.tasks),
    "baseline": problem.baseline,
    "metrics": [metric._asdict() for metric in metrics],
    "machine": describe_machine(),
    "rows": rows,
  }


def _on_test(found: Mapping[str, Found], judged: str) -> dict[str, list[float]]:
  """Collects the metrics of the models that they judge: metric -> values by seed."""
  return {
    name: [run[judged]["test"][name] for run in f.results] for name, f in found.items()
  }


def _change_at_end(
  found: Mapping[str, Found], base: Mapping[str, Found], metrics: Sequence[Metric]
) -> float:
  """Computes how much Δm still rises in the last fifth of the epochs, mean over seeds.

  It is that on the validation data, or on the test set if there are none, against the
  baseline after as many epochs. It should be near 0, or the training was too short to
  tell what the row can reach.
  """

  def values(of_metric: Mapping[str, Found], share: float) -> list[dict[str, float]]:
    at = {
      name: [_evaluated(run["history"], share)[name] for run in f.results]
      for name, f in of_metric.items()
    }
    return by_seed(at)

  def mean_delta_m(share: float) -> float:
    level = mean_over_seeds(values(base, share), metrics)
    runs = values(found, share)
    return float(np.mean([delta_m(run, level, metrics) for run in runs]))

  return mean_delta_m(1.0) - mean_delta_m(_ALMOST_DONE)


def _evaluated(history: Sequence[dict[str, Any]], share: float) -> dict[str, float]:
  """Returns the metrics of a run after a share of its epochs."""
  row = history[max(0, round(share * len(history)) - 1)]
  return next(row[split] for split in SPLITS if split in row)


def _sum_up(
  rows: dict[str, Any], judged: str, metrics: Sequence[Metric], baseline: str
) -> None:
  """Adds Δm of each seed, and the mean rank among all rows."""
  runs = {name: by_seed(row["test"][judged]) for name, row in rows.items()}
  means = {name: mean_over_seeds(of_row, metrics) for name, of_row in runs.items()}
  ranks = mean_ranks([*means.values()], metrics)
  for (name, row), rank in zip(rows.items(), ranks, strict=True):
    row.setdefault("mean_rank", {})[judged] = rank
    row.setdefault("delta_m", {})[judged] = [
      delta_m(run, means[baseline], metrics) for run in runs[name]
    ]


def by_seed(values: Mapping[str, Sequence[float]]) -> list[dict[str, float]]:
  """Turns metric -> values by seed into the metrics of each seed."""
  seeds = zip(*values.values(), strict=True)
  return [dict(zip(values, seed, strict=True)) for seed in seeds]


def _keys(scores: Mapping[float, float]) -> dict[str, float]:
  return {f"{rate:g}": score for rate, score in scores.items()}
