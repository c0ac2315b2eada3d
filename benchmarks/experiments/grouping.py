"""Asks whether the retained GNR predicts which tasks train well together.

``python -m benchmarks.experiments PROBLEM grouping`` trains a model on all tasks and
computes from its gradients which share of its own GNR each task would keep in each
group of tasks (:func:`maxgnr_jax.retained_gnr`). Then it trains a model on each group
and on each task alone, all tuned alike, and compares the shares with the changes of
the tasks' metrics against training alone.
"""

import dataclasses
import itertools
import json
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.experiments import grouping_report
from benchmarks.experiments.config import ManyRuns, Run
from benchmarks.experiments.metric import delta_m, mean_over_seeds
from benchmarks.experiments.model import Model
from benchmarks.experiments.problem import Problem
from benchmarks.experiments.runner import Runner
from benchmarks.experiments.summary import Found
from benchmarks.experiments.sweep import baseline_rows, described, run_rows
from benchmarks.experiments.tuning import Row, is_at_edge
from benchmarks.machine import describe_machine
from benchmarks.methods import named
from maxgnr_jax import GradientStats, group_tasks, retained_gnr

# Numbers of tasks, in ascending order, that train together.
Group = tuple[int, ...]
# Groups that have each task once.
Division = tuple[Group, ...]

_FEW = 5  # tasks, all of whose groups are trained
_LEAST, _MOST = 1e-6, 1e6  # shares are clipped before logarithms are averaged


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grouping(ManyRuns):
  """Compare the GNR that tasks retain in groups with how well the groups train."""

  trained_by: str = "maxgnr-0.9-smoothed-0.9-own-heads"
  """The method that trains each group."""
  measured_by: str = "maxgnr-0.9-noise-0.99"
  """The method of the model on all tasks, whose gradients are measured."""
  num_groups: int = 2
  """Groups into which ``group_tasks`` divides the tasks."""
  pairs: int = 30
  """Random pairs that are trained of more than five tasks; of fewer, all groups are."""
  random_divisions: int = 5
  """Random divisions of more than five tasks into groups of the proposed sizes; of
  fewer tasks, all such divisions are compared."""

  def __post_init__(self) -> None:
    """Checks the settings before anything is loaded."""
    super().__post_init__()
    for name in ("num_groups", "pairs"):
      if getattr(self, name) < 1:
        raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
    for method in (self.trained_by, self.measured_by):
      named(method)
    measures = self.measured_by.startswith(("maxgnr", "equal-weights"))
    if not measures or "by-layer" in self.measured_by:
      raise ValueError(
        "measured_by must be equal-weights or a method of MaxGNR that has one group of "
        f"parameters, got {self.measured_by!r}"
      )


def grouping(model: Model, settings: Grouping, kind: type[Run]) -> str:
  """Runs what is missing in ``settings.out/runs``; returns the tables.

  They are written to ``settings.out`` with a figure and, in ``results.json``, every
  number.

  Args:
    model: What is trained.
    settings: The study's settings.
    kind: The settings of one run, which have those of the problem.
  """
  problem = model.problem
  if problem.baseline != "single-task":
    raise ValueError(
      f"{problem.title}: no task can be trained alone, so that nothing tells whether "
      "groups help; choose another problem"
    )
  settings = dataclasses.replace(settings, record_stats=True)
  alone = baseline_rows(problem)
  of_all = Row(settings.measured_by)
  runner = Runner(model, settings, kind)
  found = run_rows(runner, [*alone, of_all])
  stats = recorded(found[of_all].results)
  divisions = choose_divisions(stats, settings)
  groups = choose_groups(len(problem.tasks), divisions, settings)
  rows = {group: _row(problem, group, settings) for group in groups}
  found |= run_rows(runner, [*alone, *rows.values()])
  changes = {group: _changes(problem, found, rows[group]) for group in groups}
  summary = {
    **described(settings),
    "problem": problem.title,
    "tasks": list(problem.tasks),
    "machine": describe_machine(),
    "alone": {row.tasks[0]: _rate(found[row]) for row in alone},
    "of_all": {"method": settings.measured_by, **_rate(found[of_all])},
    "groups": [
      {
        "tasks": list(rows[group].tasks),
        **_rate(found[rows[group]]),
        "retained": dict(
          zip(rows[group].tasks, retained(stats, group).tolist(), strict=True)
        ),
        "change": changes[group],
      }
      for group in groups
    ],
    "divisions": [
      {
        "groups": [list(_names(problem, group)) for group in division],
        "change": _mean_change(division, changes, settings.seeds),
      }
      for division in divisions
    ],
  }
  summary["correlations"] = grouping_report.correlations(summary["groups"])
  text = grouping_report.markdown(summary)
  grouping_report.draw(summary, settings.out / "retained.png")
  (settings.out / "table.md").write_text(text)
  (settings.out / "results.json").write_text(json.dumps(summary, indent=1) + "\n")
  return text


def recorded(results: Sequence[dict[str, Any]]) -> GradientStats:
  """Stacks the statistics of N epochs, those of all seeds, on a leading axis."""
  rows = [row["stats"] for result in results for row in result["history"]]

  def stacked(name: str) -> jax.Array:
    return jnp.array([row[name] for row in rows], jnp.float32)

  return GradientStats(*map(stacked, GradientStats._fields))


def retained(stats: GradientStats, group: Group) -> np.ndarray:
  """Computes the share that each task of a group retains, the geometric mean over N."""
  shares = jax.vmap(lambda one: retained_gnr(one, group))(stats)
  return np.exp(np.log(np.clip(np.asarray(shares), _LEAST, _MOST)).mean(0))


def average(stats: GradientStats) -> GradientStats:
  """Averages over N: norms geometrically, because they fall by orders; cosines."""

  def geometric(norms: jax.Array) -> jax.Array:
    return jnp.exp(jnp.log(jnp.maximum(norms, 1e-30)).mean(0))

  return GradientStats(
    geometric(stats.gradient_norm),
    geometric(stats.noise_norm),
    stats.noise_cosine.mean(0),
  )


def choose_divisions(stats: GradientStats, settings: Grouping) -> list[Division]:
  """Lists the division that ``group_tasks`` proposes, then others of the same sizes."""
  proposed = group_tasks(average(stats), settings.num_groups)
  sizes = [len(group) for group in proposed]
  number = sum(sizes)
  random = np.random.default_rng(0)
  orders: Iterable[Any] = itertools.permutations(range(number))
  if number > _FEW:
    orders = [random.permutation(number) for _ in range(settings.random_divisions)]
  cuts = np.cumsum(sizes)[:-1]
  divisions = [_sorted(proposed)]
  divisions += [_sorted(np.split(np.array(order), cuts)) for order in orders]
  return list(dict.fromkeys(divisions))


def _sorted(groups: Iterable[Iterable[int]]) -> Division:
  return tuple(sorted(tuple(sorted(map(int, group))) for group in groups))


def choose_groups(
  number: int, divisions: Sequence[Division], settings: Grouping
) -> list[Group]:
  """Lists the groups of at least two of so many tasks that are to be trained."""
  pairs = list(itertools.combinations(range(number), 2))
  if number <= _FEW:
    sizes = range(3, number + 1)
    larger = [g for size in sizes for g in itertools.combinations(range(number), size)]
    return [*pairs, *larger]
  chosen = np.random.default_rng(1).permutation(len(pairs))[: settings.pairs]
  groups = [pairs[at] for at in sorted(chosen)]
  groups += [group for division in divisions for group in division if len(group) > 1]
  return list(dict.fromkeys(groups))


def _names(problem: Problem, group: Group) -> tuple[str, ...]:
  return tuple(problem.tasks[number] for number in group)


def _row(problem: Problem, group: Group, settings: Grouping) -> Row:
  return Row(settings.trained_by, _names(problem, group))


def _rate(found: Found) -> dict[str, Any]:
  """Describes the choice of a row's learning rate."""
  return {
    "learning_rate": found.learning_rate,
    "validation": {f"{rate:g}": score for rate, score in found.scores.items()},
    "at_edge": is_at_edge(found.scores, found.learning_rate),
  }


def _changes(
  problem: Problem, found: dict[Row, Found], row: Row
) -> dict[str, list[float]]:
  """Computes the change of each task's test metrics against training alone, by seed."""

  def tests(row: Row) -> list[dict[str, float]]:
    return [result["last"]["test"] for result in found[row].results]

  changes = {}
  for task in row.tasks:
    metrics = problem.metrics_of(task)
    alone = tests(Row("single-task", (task,)))
    base = mean_over_seeds(alone, metrics)
    changes[task] = [delta_m(run, base, metrics) for run in tests(row)]
  return changes


def _mean_change(
  division: Division, changes: dict[Group, dict[str, list[float]]], seeds: int
) -> list[float]:
  """Averages the changes of all tasks by seed; a task in no company has none."""
  total = np.zeros(seeds)
  for group in division:
    if len(group) > 1:
      total += np.sum([*changes[group].values()], axis=0)
  return (total / sum(map(len, division))).tolist()
