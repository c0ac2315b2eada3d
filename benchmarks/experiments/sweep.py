"""Runs methods x learning rates x seeds; runs that are complete are not repeated."""

import dataclasses
import json
import shlex
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.experiments import summary
from benchmarks.experiments.config import ManyRuns, Run
from benchmarks.experiments.model import Model
from benchmarks.experiments.problem import Problem
from benchmarks.experiments.train import make_trainer, train
from benchmarks.experiments.tuning import (
  Row,
  Scores,
  best_rate,
  next_rate,
  score_rates,
)
from benchmarks.methods import METHODS, named

PAPER_METHODS = (
  "equal-weights",
  "dwa",
  "uncertainty",
  "gradnorm",
  "mgda",
  "pcgrad",
  "maxgnr-0.5",
  "maxgnr-0.9",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sweep(ManyRuns):
  """Train several methods and single-task models, each with the same budget."""

  methods: tuple[str, ...] = PAPER_METHODS
  """Rows of the table: names of benchmarks/methods.py, or ``all`` of these."""

  def __post_init__(self) -> None:
    """Checks the settings before anything is loaded."""
    super().__post_init__()
    if "all" in self.methods:
      object.__setattr__(self, "methods", tuple(METHODS))
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
  problem = model.problem
  rows = baseline_rows(problem)
  rows += [(method, ()) for method in settings.methods]
  found = run_rows(model, settings, kind, list(dict.fromkeys(rows)))
  whole = summary.summarise(problem, found, described(settings))
  text = json.dumps(whole, indent=1) + "\n"
  (settings.out / "results.json").write_text(text)
  return whole


def baseline_rows(problem: Problem) -> list[Row]:
  """Lists the rows that others are compared with."""
  if problem.baseline == "single-task":
    return [("single-task", (task,)) for task in problem.tasks]
  return [(problem.baseline, ())]


def run_rows(
  model: Model, settings: ManyRuns, kind: type[Run], rows: Sequence[Row]
) -> dict[Row, summary.Found]:
  """Runs what is missing of some rows: first to choose rates, then at the chosen ones.

  Args:
    model: What is trained.
    settings: How they are tuned and repeated.
    kind: The settings of one run, which have those of the problem.
    rows: What is trained, those of :func:`baseline_rows` first.
  """
  of_run = {field.name for field in dataclasses.fields(kind)}
  shared: dict[str, Any] = {
    field.name: getattr(settings, field.name)
    for field in dataclasses.fields(settings)
    if field.name in of_run
  }

  def run_of(row: Row, rate: float, seed: int) -> Run:
    method, tasks = row
    is_single = method == "single-task"
    name = "-".join([method, *([] if is_single or not tasks else ["on"]), *tasks])
    return kind(
      **shared
      | {
        "out": settings.out / "runs" / name / f"lr-{rate:g}" / f"seed-{seed}",
        "method": "equal-weights" if is_single else method,
        "tasks": tasks,
        "learning_rate": rate,
        "seed": seed,
        "resume": True,
      }
    )

  rates = tuple(dict.fromkeys(settings.learning_rates))
  reported = reported_seeds(
    settings.seeds, settings.tuning_seeds, settings.tuning_seeds_apart
  )
  tuning = range(settings.tuning_seeds) if len(rates) > 1 else reported
  rest = [seed for seed in reported if seed not in tuning]
  epochs = settings.epochs * len(rows) * (len(rates) * len(tuning) + len(rest))
  bar = tqdm(total=epochs, unit="epoch", dynamic_ncols=True, smoothing=0.02)
  trainers = {row: make_trainer(model, run_of(row, rates[0], 0)) for row in rows}

  stopped = threading.Event()

  def check_stopped() -> None:
    if stopped.is_set():
      raise InterruptedError("another run failed, or the sweep was stopped")

  def do(job: tuple[Row, float, int]) -> dict[str, Any]:
    trainer, run = trainers[job[0]], run_of(*job)
    done = 0
    check_stopped()

    def progress(steps: int, _: str) -> None:
      nonlocal done
      check_stopped()
      before, done = done, done + steps
      per_epoch = trainer.steps_per_epoch
      bar.update(done // per_epoch - before // per_epoch)

    try:
      result = train(trainer, run, progress)
    except BaseException:
      stopped.set()
      raise
    bar.update(run.epochs - done // trainer.steps_per_epoch)  # found done
    bar.set_postfix_str("/".join(run.out.parts[-3:]))
    return result

  def do_all(jobs: list[tuple[Row, float, int]]) -> dict[Any, dict[str, Any]]:
    return dict(zip(jobs, pool.map(do, jobs), strict=True))

  scores: dict[Row, Scores] = {row: {} for row in rows}
  chosen = dict.fromkeys(rows, rates[0])
  with bar, ThreadPoolExecutor(settings.jobs) as pool:
    try:
      # Rows vary fastest, so that several methods compile at the same time.
      jobs = [(row, rate, seed) for rate in rates for seed in tuning for row in rows]
      results = do_all(jobs)
      if len(rates) > 1:
        grids = dict.fromkeys(rows, rates)
        scores = score_rates(model.problem, grids, tuning, results)
        while new := _extensions(scores, len(rates) + settings.most_extensions):
          grids |= {row: (*grids[row], rate) for row, rate in new.items()}
          jobs = [(row, rate, seed) for seed in tuning for row, rate in new.items()]
          bar.total += settings.epochs * len(jobs)
          results |= do_all(jobs)
          scores = score_rates(model.problem, grids, tuning, results)
        chosen = {row: best_rate(scores[row]) for row in rows}
      results |= do_all([(row, chosen[row], seed) for seed in rest for row in rows])
    except BaseException:  # Ctrl-C too: without this it would wait for all of them
      stopped.set()
      pool.shutdown(cancel_futures=True)
      raise
  return {
    row: summary.Found(
      chosen[row], scores[row], [results[row, chosen[row], seed] for seed in reported]
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
    "command": shlex.join(["python", "-m", *_module(), *sys.argv[1:]]),
    "settings": json.loads(json.dumps(fields)),
  }


def _module() -> list[str]:
  spec = getattr(sys.modules["__main__"], "__spec__", None)
  name = spec.name if spec else Path(sys.argv[0]).stem
  return [name.removesuffix(".__main__")]
