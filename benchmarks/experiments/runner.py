"""Makes many runs at the same time; those that are complete are not repeated."""

import dataclasses
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tqdm import tqdm

from benchmarks.experiments.config import ManyRuns, Run
from benchmarks.experiments.model import Model
from benchmarks.experiments.step import Trainer
from benchmarks.experiments.train import make_trainer, train
from benchmarks.experiments.tuning import Job, Row


class Runner:
  """Makes the runs of a sweep in ``settings.out/runs``.

  Args:
    model: What is trained.
    settings: What all runs share.
    kind: The settings of one run, which have those of the problem.
  """

  def __init__(self, model: Model, settings: ManyRuns, kind: type[Run]):
    self.problem = model.problem
    self.settings = settings
    self._model, self._kind = model, kind
    of_run = {field.name for field in dataclasses.fields(kind)}
    self._shared: dict[str, Any] = {
      field.name: getattr(settings, field.name)
      for field in dataclasses.fields(settings)
      if field.name in of_run
    }
    self._trainers: dict[Any, Trainer] = {}

  def run(self, jobs: Iterable[Job], stage: str) -> dict[Job, dict[str, Any]]:
    """Makes what is missing of some runs, and returns the results of all of them.

    Args:
      jobs: In the order in which they begin.
      stage: What the progress bar says that they are for.
    """
    jobs = list(dict.fromkeys(jobs))
    trainers = {job: self.trainer(job.row) for job in jobs}
    epochs = self.settings.epochs
    stopped = threading.Event()

    def check_stopped() -> None:
      if stopped.is_set():
        raise InterruptedError("another run failed, or the sweep was stopped")

    def do(job: Job) -> dict[str, Any]:
      trainer, run, done = trainers[job], self._run_of(job), 0
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
      bar.update(epochs - done // trainer.steps_per_epoch)  # found done
      bar.set_postfix_str("/".join(run.out.parts[-3:]))
      return result

    bar = tqdm(
      total=epochs * len(jobs),
      desc=stage,
      unit="epoch",
      dynamic_ncols=True,
      smoothing=0.02,
    )
    with bar, ThreadPoolExecutor(self.settings.jobs) as pool:
      try:
        return dict(zip(jobs, pool.map(do, jobs), strict=True))
      except BaseException:  # Ctrl-C too: without this it would wait for all of them
        stopped.set()
        pool.shutdown(cancel_futures=True)
        raise

  def trainer(self, row: Row) -> Trainer:
    """Returns the trainer of a row, which is compiled once for all weights."""
    key = row._replace(weights=())
    if key not in self._trainers:
      # Rate and seed are arguments of what it compiles.
      self._trainers[key] = make_trainer(self._model, self._run_of(Job(row, 1.0, 0)))
    return self._trainers[key]

  def _run_of(self, job: Job) -> Run:
    row, rate, seed = job
    folder = self.settings.out / "runs" / row.name / f"lr-{rate:g}" / f"seed-{seed}"
    return self._kind(
      **self._shared
      | {
        "out": folder,
        "method": "equal-weights" if row.method == "single-task" else row.method,
        "tasks": row.tasks,
        "weights": row.weights,
        "learning_rate": rate,
        "seed": seed,
        "resume": True,
      }
    )
