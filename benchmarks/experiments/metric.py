"""The metrics of a model, and what sums up a table of them: Δm and the mean rank."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np


class Metric(NamedTuple):
  """One column of a table.

  Attributes:
    name: Key in results.
    task: The task that it judges.
    label: Heading of the column.
    sign: 1 if larger is better, -1 if smaller is.
    places: Decimal places that are printed.
    in_delta_m: Whether Δm and the mean rank count it.
    shown: Whether tables have a column for it.
    by_ratio: Whether it is positive and may differ by orders of magnitude: Δm then
      takes the logarithm of its ratio to the base, which for small changes is the same.
  """

  name: str
  task: str
  label: str
  sign: int
  places: int
  in_delta_m: bool = True
  shown: bool = True
  by_ratio: bool = False


def delta_m(
  values: Mapping[str, float], base: Mapping[str, float], metrics: Sequence[Metric]
) -> float:
  """Computes Δm %, the mean change against ``base``; positive is better.

  The change of a metric is relative to its base, or the logarithm of their ratio.

  References:
    Maninis, Radosavovic, Kokkinos, `Attentive Single-Tasking of Multiple Tasks
    <https://arxiv.org/abs/1904.08918>`_, 2019, Section 5, over metrics as is usual now.
  """

  def change(metric: Metric) -> float:
    value, old = values[metric.name], base[metric.name]
    if metric.by_ratio:
      return float(np.log(value / old))
    with np.errstate(divide="ignore", invalid="ignore"):  # a base of 0
      return float(np.divide(value - old, abs(old)))

  return float(np.mean([100 * m.sign * change(m) for m in metrics if m.in_delta_m]))


def mean_over_seeds(
  runs: Sequence[Mapping[str, float]], metrics: Sequence[Metric]
) -> dict[str, float]:
  """Averages metrics over runs, geometrically those that differ by orders."""

  def mean(metric: Metric) -> float:
    values = [run[metric.name] for run in runs]
    if metric.by_ratio:
      return float(np.exp(np.mean(np.log(values))))
    return float(np.mean(values))

  return {metric.name: mean(metric) for metric in metrics}


def mean_ranks(
  rows: Sequence[Mapping[str, float]], metrics: Sequence[Metric]
) -> list[float]:
  """Averages each row's rank over the metrics; 1 is the best, ties share ranks."""
  ranks = []
  for metric in metrics:
    if metric.in_delta_m:
      score = np.array([metric.sign * row[metric.name] for row in rows])
      score = np.nan_to_num(score, nan=-np.inf)  # what diverged is last
      better = (score[None] > score[:, None]).sum(1)
      equal = (score[None] == score[:, None]).sum(1)
      ranks.append(better + (equal + 1) / 2)
  return np.mean(ranks, axis=0).tolist()


def add(
  total: Mapping[str, np.ndarray], batch_sums: Mapping[str, jax.Array]
) -> dict[str, np.ndarray]:
  """Adds a batch's sums to ``total``, which is ``{}`` at first.

  Integers are added in int64, so that counts stay exact, other numbers in float64.
  """

  def wide(value: jax.Array) -> np.ndarray:
    array = np.asarray(value)
    return array.astype(np.int64 if array.dtype.kind == "i" else np.float64)

  return {name: total.get(name, 0) + wide(value) for name, value in batch_sums.items()}


def mean_and_error(values: Sequence[float], places: int) -> str:
  """Formats mean ± standard error; one value is shown alone, none as an empty text.

  If values are not finite, the text says how many.
  """
  if not values:
    return ""
  diverged = len(values) - int(np.isfinite(values).sum())
  if diverged:
    return f"diverged ({diverged} of {len(values)})"
  mean = f"{round(float(np.mean(values)), places) + 0.0:.{places}f}"  # never -0.0
  if len(values) < 2:
    return mean
  error = np.std(values, ddof=1) / np.sqrt(len(values))
  return f"{mean} ± {error:.{places}f}"
