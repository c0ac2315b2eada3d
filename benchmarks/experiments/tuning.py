"""Chooses the learning rate of each row on validation data, and extends its grid."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from benchmarks.experiments.metric import Metric, delta_m, mean_over_seeds
from benchmarks.experiments.problem import Problem

K = TypeVar("K")


class Row(NamedTuple):
  """A row of a table.

  Attributes:
    method: Its method; ``"single-task"`` for a model of one task.
    tasks: The tasks that it trains; none named: all.
    weights: Those of a method whose weights are fixed.
  """

  method: str
  tasks: tuple[str, ...] = ()
  weights: tuple[float, ...] = ()

  @property
  def name(self) -> str:
    """A name of its own for the folder of its runs."""
    on = ["on"] if self.tasks and self.method != "single-task" else []
    return "-".join([self.method, *on, *self.tasks, *(f"{w:g}" for w in self.weights)])


class Job(NamedTuple):
  """One run of a row."""

  row: Row
  rate: float
  seed: int


# Learning rate -> Δm % on the validation data; not finite where runs diverged.
Scores = dict[float, float]


def score_rates(
  problem: Problem,
  grids: Mapping[Row, Sequence[float]],
  seeds: Sequence[int],
  results: Mapping[Job, Mapping[str, Any]],
) -> dict[Row, Scores]:
  """Computes the Δm of each row and rate on the validation data, mean over seeds.

  A row of the baseline is compared with the median over its rates, which one that
  diverges does not move; another row with the baseline of its tasks at its best rates.

  Args:
    problem: What is trained.
    grids: The rates that were tried with each row, those of the baseline first.
    seeds: The seeds that were run with each of these rates.
    results: Results of :func:`benchmarks.experiments.train.train`.
  """

  def mean(row: Row, rate: float) -> dict[str, float]:
    runs = [results[Job(row, rate, seed)]["last"]["validation"] for seed in seeds]
    return mean_over_seeds(runs, problem.metrics)

  def score(row: Row, base: Mapping[str, float], metrics: Sequence[Metric]) -> Scores:
    return {rate: delta_m(mean(row, rate), base, metrics) for rate in grids[row]}

  scores: dict[Row, Scores] = {}
  base: dict[str, float] = {}
  for row, rates in grids.items():
    metrics = [m for m in problem.metrics if not row.tasks or m.task in row.tasks]
    if row.method == problem.baseline:
      values = [mean(row, rate) for rate in rates]
      own = {m.name: _median([v[m.name] for v in values]) for m in metrics}
      scores[row] = score(row, own, metrics)
      best = mean(row, best_of(scores[row]))
      base |= {metric.name: best[metric.name] for metric in metrics}
    else:
      scores[row] = score(row, base, metrics)
  return scores


def _median(values: Sequence[float]) -> float:
  finite = [value for value in values if np.isfinite(value)]
  return float(np.median(finite)) if finite else np.nan


def best_of(scores: Mapping[K, float]) -> K:
  """Returns what has the highest score; what diverged comes last."""
  return max(scores, key=lambda key: np.nan_to_num(scores[key], nan=-np.inf))


def is_at_edge(scores: Mapping[float, float], chosen: float) -> bool:
  """Says whether a better rate may lie outside of the grid that was tried.

  That is so if the chosen one is the lowest or the highest, or if no run was finite.
  Without scores there was no choice.
  """
  if not scores:
    return False
  diverged = not np.isfinite([*scores.values()]).any()
  return diverged or chosen in (min(scores), max(scores))


def next_rate(scores: Mapping[float, float]) -> float | None:
  """Returns the rate to try next, or None if the best one is inside of the grid.

  It lies beyond the edge where the best one is, below the lowest if all runs diverged.
  The grid goes on by the ratio of its two outermost rates, rounded to one digit such
  that 0.01 and 0.03 are followed by 0.1, 0.3, 1...
  """
  best = best_of(scores)
  if len(scores) < 2 or not is_at_edge(scores, best):
    return None
  tried = sorted(scores)
  upwards = np.isfinite(scores[best]) and best == tried[-1]
  before, edge = tried[-2:] if upwards else (tried[1], tried[0])
  exact = edge * edge / before
  rounded = float(f"{exact:.0e}".replace("9e", "10e"))
  is_beyond = rounded > edge if upwards else rounded < edge
  return rounded if is_beyond else float(f"{exact:g}")
