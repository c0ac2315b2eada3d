"""Runs methods x learning rates x seeds; runs that are complete are not repeated."""

import dataclasses
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.experiments import fixed_weights, summary
from benchmarks.experiments.config import ManyRuns, Run
from benchmarks.experiments.model import Model
from benchmarks.experiments.problem import Problem
from benchmarks.experiments.rows import expand
from benchmarks.experiments.runner import Runner
from benchmarks.experiments.tuning import (
  Job,
  Row,
  Scores,
  best_of,
  next_rate,
  score_rates,
)
from benchmarks.methods import FIXED_WEIGHTS, named


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sweep(ManyRuns):
  """Train several methods and single-task models, each with the same budget."""

  methods: tuple[str, ...] = ("few",)
  """Rows of the table: names of benchmarks/methods.py, or of a set of them, ``few``,
  ``paper``, ``evidence``, ``equations`` or ``all``."""
  weight_draws: int = 16
  """Random weights of which ``fixed-weights`` takes the best, by the tuning seeds."""

  def __post_init__(self) -> None:
    """Checks the settings before anything is loaded."""
    super().__post_init__()
    if self.weight_draws < 1:
      raise ValueError(f"weight_draws must be at least 1, got {self.weight_draws}")
    object.__setattr__(self, "methods", expand(self.methods))
    for method in self.methods:
      named(method)


def reported_seeds(
  seeds: int, tuning_seeds: int, tuning_seeds_apart: bool = False
) -> range:
  """Lists the seeds whose test results a sweep of these settings reports."""
  first = tuning_seeds if tuning_seeds_apart else 0
  return range(first, first + seeds)


def sweep(model: Model, settings: Sweep, kind: type[Run]) -> dict:
  """Runs what is missing in ``settings.out/runs``, and summarises all runs.

  Args:
    model: What is trained.
    settings: The sweep's settings.
    kind: The settings of one run, which have those of the problem.

  Returns:
    What :func:`benchmarks.experiments.summary.summarise` makes, also written to
    ``settings.out/results.json``.
  """
  runner = Runner(model, settings, kind)
  rows = baseline_rows(model.problem)
  draws: list[dict[str, Any]] = []
  if FIXED_WEIGHTS in settings.methods:
    baseline = run_rows(runner, rows)
    chosen, draws = fixed_weights.choose(runner, baseline, settings.weight_draws)
  rows += [
    chosen if method == FIXED_WEIGHTS else Row(method) for method in settings.methods
  ]
  found = run_rows(runner, list(dict.fromkeys(rows)))
  whole = summary.summarise(model.problem, found, described(settings))
  if draws:
    whole["weight_draws"] = draws
  text = json.dumps(whole, indent=1) + "\n"
  (settings.out / "results.json").write_text(text)
  return whole


def baseline_rows(problem: Problem) -> list[Row]:
  """Lists the rows that others are compared with."""
  if problem.baseline == "single-task":
    return [Row("single-task", (task,)) for task in problem.tasks]
  return [Row(problem.baseline)]


def run_rows(runner: Runner, rows: Sequence[Row]) -> dict[Row, summary.Found]:
  """Runs what is missing of some rows: first to choose rates, then at the chosen ones.

  Args:
    runner: It has the settings by which they are tuned and repeated.
    rows: What is trained, those of :func:`baseline_rows` first.
  """
  settings, problem = runner.settings, runner.problem
  rates = tuple(dict.fromkeys(settings.learning_rates))
  reported = reported_seeds(
    settings.seeds, settings.tuning_seeds, settings.tuning_seeds_apart
  )
  tuning = range(settings.tuning_seeds)
  scores: dict[Row, Scores] = {row: {} for row in rows}
  chosen = dict.fromkeys(rows, rates[0])
  if len(rates) > 1:
    grids: dict[Row, tuple[float, ...]] = dict.fromkeys(rows, rates)
    # Rows vary fastest, so that several methods compile at the same time.
    jobs = [Job(row, rate, seed) for rate in rates for seed in tuning for row in rows]
    results = runner.run(jobs, "tuning")
    scores = score_rates(problem, grids, tuning, results)
    while new := _extensions(scores, len(rates) + settings.most_extensions):
      grids |= {row: (*grids[row], rate) for row, rate in new.items()}
      jobs = [Job(row, rate, seed) for seed in tuning for row, rate in new.items()]
      results |= runner.run(jobs, "rates beyond")
      scores = score_rates(problem, grids, tuning, results)
    chosen = {row: best_of(scores[row]) for row in rows}
  jobs = [Job(row, chosen[row], seed) for seed in reported for row in rows]
  results = runner.run(jobs, "reporting")
  return {
    row: summary.Found(
      chosen[row],
      scores[row],
      [results[Job(row, chosen[row], seed)] for seed in reported],
    )
    for row in rows
  }


def _extensions(scores: Mapping[Row, Scores], most_rates: int) -> dict[Row, float]:
  """Lists the next rate of each row whose best one is at an edge of its grid."""
  return {
    row: rate
    for row, of_row in scores.items()
    if len(of_row) < most_rates and (rate := next_rate(of_row)) is not None
  }


def described(settings: ManyRuns) -> dict[str, Any]:
  """Records the command and the settings that reproduce the results."""
  fields = dataclasses.asdict(settings)
  for name in ("data", "out", "jobs", "checkpoint_seconds", "tensorboard", "methods"):
    fields.pop(name, None)  # a problem without files has no `data`
  fields["learning_rates"] = list(settings.learning_rates)
  return {
    "command": command(),
    "settings": json.loads(json.dumps(fields)),
  }


def command() -> str:
  """Returns the command line of this process, as a user would type it."""
  return shlex.join(["python", "-m", *_module(), *sys.argv[1:]])


def _module() -> list[str]:
  spec = getattr(sys.modules["__main__"], "__spec__", None)
  name = spec.name if spec else Path(sys.argv[0]).stem
  return [name.removesuffix(".__main__")]


def read_summary(out: Path) -> dict[str, Any]:
  """Reads the results of a sweep.

  Raises:
    ValueError: if there is no sweep in ``out`` that came to its end.
  """
  path = out / "results.json"
  if not path.exists():
    raise ValueError(f"there is no {path}: run `sweep --out {out}` to its end first")
  return json.loads(path.read_text())


def joint_rows(summary: Mapping[str, Any], names: Sequence[str]) -> dict[str, Row]:
  """Finds rows of a sweep's results; without names all but single-task models.

  Raises:
    ValueError: if there is no such row.
  """
  there = summary["rows"]
  names = names or [name for name in there if name != "single-task"]
  for name in names:
    if name not in there or name == "single-task":
      raise ValueError(
        f"the sweep has no joint row {name!r}: it must be one of {', '.join(there)}"
      )
  weights = {name: tuple(there[name].get("weights", ())) for name in names}
  return {name: Row(name, weights=weights[name]) for name in names}
