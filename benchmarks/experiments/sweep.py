"""Runs methods x learning rates x seeds; runs that are complete are not repeated."""

import dataclasses
import json
import os
import shlex
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks.experiments import summary
from benchmarks.experiments.config import Run, Settings
from benchmarks.experiments.metric import Metric, delta_m
from benchmarks.experiments.model import Model
from benchmarks.experiments.problem import Problem
from benchmarks.experiments.train import make_trainer, train
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
class Sweep(Settings):
  """Train several methods and single-task models, each with the same budget."""

  methods: tuple[str, ...] = PAPER_METHODS
  """Rows of the table: names of benchmarks/methods.py, or ``all`` of these."""
  learning_rates: tuple[float, ...] = (1e-4,)
  """The optimiser's; validation data choose one of several for each method."""
  seeds: int = 3
  """Runs per method."""
  tuning_seeds: int = 1
  """Runs by which the learning rate is chosen, at most ``seeds``."""
  tuning_seeds_apart: bool = False
  """Report other seeds than those by which the learning rate is chosen: the
  ``seeds`` that follow them, so that there may be fewer."""
  jobs: int = os.cpu_count() or 1
  """Runs at the same time."""

  def __post_init__(self) -> None:
    """Checks the settings before anything is loaded."""
    super().__post_init__()
    if "all" in self.methods:
      object.__setattr__(self, "methods", tuple(METHODS))
    for name in ("seeds", "tuning_seeds", "jobs"):
      if getattr(self, name) < 1:
        raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
    if self.tuning_seeds > self.seeds and not self.tuning_seeds_apart:
      raise ValueError(
        f"tuning_seeds must be at most seeds, got {self.tuning_seeds} of {self.seeds}"
      )
    if len(set(self.learning_rates)) > 1 and not self.validation:
      raise ValueError(
        "learning rates are chosen on validation data, never on the test set: give "
        "--validation 0.1, or a single learning rate"
      )
    for method in self.methods:
      named(method)


def reported_seeds(
  seeds: int, tuning_seeds: int, tuning_seeds_apart: bool = False
) -> range:
  """Lists the seeds whose test results a sweep of these settings reports."""
  first = tuning_seeds if tuning_seeds_apart else 0
  return range(first, first + seeds)


# Settings that the sweep has and a single run has not.
_OF_THE_WHOLE = (
  "methods",
  "learning_rates",
  "seeds",
  "tuning_seeds",
  "tuning_seeds_apart",
  "jobs",
)

# A row of a table: a method, and the task if it is a single-task model.
Row = tuple[str, str | None]


def sweep(model: Model, settings: Sweep, make_run: Callable[..., Run]) -> dict:
  """Runs what is missing in ``settings.out/runs``, and summarises all runs.

  Args:
    model: What is trained.
    settings: The sweep's settings.
    make_run: Makes a :class:`Run` from its fields.

  Returns:
    What :func:`benchmarks.experiments.summary.summarise` makes, also written to
    ``settings.out/results.json``.
  """
  problem = model.problem
  shared = {
    field.name: getattr(settings, field.name)
    for field in dataclasses.fields(settings)
    if field.name not in _OF_THE_WHOLE
  }
  rows: list[Row] = [("single-task", task) for task in problem.tasks]
  rows += [(method, None) for method in dict.fromkeys(settings.methods)]

  def run_of(row: Row, rate: float, seed: int) -> Run:
    method, task = row
    name = method if task is None else f"{method}-{task}"
    return make_run(
      **shared
      | {
        "out": settings.out / "runs" / name / f"lr-{rate:g}" / f"seed-{seed}",
        "method": "equal-weights" if task else method,
        "task": task,
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

  with bar, ThreadPoolExecutor(settings.jobs) as pool:
    try:
      # Rows vary fastest, so that several methods compile at the same time.
      jobs = [(row, rate, seed) for rate in rates for seed in tuning for row in rows]
      results = dict(zip(jobs, pool.map(do, jobs), strict=True))
      scores = _scores(problem, rows, rates, tuning, results)
      chosen = {row: max(scores[row], key=_finite(scores[row])) for row in rows}
      jobs = [(row, chosen[row], seed) for seed in rest for row in rows]
      results |= dict(zip(jobs, pool.map(do, jobs), strict=True))
    except BaseException:  # Ctrl-C too: without this it would wait for all of them
      stopped.set()
      pool.shutdown(cancel_futures=True)
      raise
  found = {
    row: summary.Found(
      chosen[row],
      scores[row] if len(rates) > 1 else {},
      [results[row, chosen[row], seed] for seed in reported],
    )
    for row in rows
  }
  whole = summary.summarise(problem, found, _described(settings))
  text = json.dumps(whole, indent=1) + "\n"
  (settings.out / "results.json").write_text(text)
  return whole


def _scores(
  problem: Problem,
  rows: Sequence[Row],
  rates: Sequence[float],
  seeds: Sequence[int],
  results: dict[Any, dict[str, Any]],
) -> dict[Row, dict[float, float]]:
  """Computes each rate's Δm on the validation data, mean over seeds.

  A single-task model is compared with the mean over its rates, a method with the
  single-task models at their best rates.
  """
  if len(rates) == 1:
    return {row: {rates[0]: 0.0} for row in rows}

  def mean(row: Row, rate: float) -> dict[str, float]:
    runs = [results[row, rate, seed]["last"]["validation"] for seed in seeds]
    return {name: float(np.mean([run[name] for run in runs])) for name in runs[0]}

  def score(row: Row, base: dict[str, float], metrics: Sequence[Metric]):
    return {rate: delta_m(mean(row, rate), base, metrics) for rate in rates}

  scores: dict[Row, dict[float, float]] = {}
  base: dict[str, float] = {}
  for row in rows:
    _, task = row
    if task is not None:
      metrics = problem.metrics_of(task)
      values = [mean(row, rate) for rate in rates]
      own = {m.name: float(np.nanmean([v[m.name] for v in values])) for m in metrics}
      scores[row] = score(row, own, metrics)
      best = mean(row, max(scores[row], key=_finite(scores[row])))
      base |= {metric.name: best[metric.name] for metric in metrics}
    else:
      scores[row] = score(row, base, problem.metrics)
  return scores


def _finite(scores: dict[float, float]) -> Callable[[float], float]:
  """Makes a key for `max` that ranks rates whose runs diverged last."""
  return lambda rate: np.nan_to_num(scores[rate], nan=-np.inf)


def _described(settings: Sweep) -> dict[str, Any]:
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
