"""Trains one run from its settings to its result; a run that was killed is resumed."""

import csv
import itertools
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from benchmarks.combination import gradient_stats
from benchmarks.experiments.checkpoint import Best, Checkpoints, Snapshot, save_model
from benchmarks.experiments.config import Run
from benchmarks.experiments.loading import stream
from benchmarks.experiments.metric import Metric
from benchmarks.experiments.model import Model
from benchmarks.experiments.problem import SPLITS
from benchmarks.experiments.step import RunState, Trainer

# Besides its best model's, a run's result is the mean over its last evaluations. A
# learning rate that has fallen to 0 leaves nothing to average.
LAST = 10
_LAST_OF = {"constant": LAST, "warmup": LAST, "cosine": 1}
_SECONDS_PER_LINE = 1.0


def make_trainer(model: Model, run: Run) -> Trainer:
  """Makes the trainer that ``run`` needs."""
  return Trainer(
    model,
    run.method_name,
    run.tasks,
    run.batch_size,
    run.microbatches,
    run.steps_per_call,
    run.schedule,
    run.epochs,
    run.optimizer,
  )


def train(
  trainer: Trainer, run: Run, progress: Callable[[int, str], Any] | None = None
) -> dict[str, Any]:
  """Trains or resumes a run, and returns what is in ``run.out/result.json``.

  Args:
    trainer: From :func:`make_trainer`; runs that differ in seed and rate share it.
    run: The settings.
    progress: Called after each call with its steps and, about once a second, a line
      on losses and weights, otherwise an empty text.

  Returns:
    ``identity`` (the settings), ``history`` (a row per epoch), ``best_epoch``,
    ``"best"`` and ``"last"``: metrics by split, of the best model on the training set
    and as the mean over the last evaluations.

  Raises:
    ValueError: if ``run.out`` holds another run, or one to be resumed and
      ``run.resume`` is not set.
  """
  identity = run.identity(trainer.problem.title)
  run.out.mkdir(parents=True, exist_ok=True)
  done = _claim(run, identity)
  if done is not None:
    return done
  checkpoints = Checkpoints(run.out / "checkpoints", run.checkpoint_seconds)
  start = _start(trainer, run)
  snapshot = checkpoints.restore(start) or start
  writer = _tensorboard(run, len(snapshot.history))
  snapshot = _loop(trainer, run, snapshot, checkpoints, writer, progress)
  checkpoints.close()
  if writer is not None:
    writer.close()
  save_model(run.out / "model", snapshot.best)
  found = summarise(snapshot, trainer.problem.metrics, _LAST_OF[run.schedule])
  result = {"identity": identity, **found}
  _write(run.out / "result.json", json.dumps(result, indent=1))
  shutil.rmtree(run.out / "checkpoints")
  return result


def _loop(trainer, run, snapshot, checkpoints, writer, progress) -> Snapshot:
  """Takes all steps that are left."""
  state, best, history = snapshot
  batches = trainer.problem.train_batches(run.batch_size, run.seed)
  first, per_epoch = int(state.step), trainer.steps_per_epoch
  per_call = trainer.steps_per_call
  if progress is not None and first:
    progress(first, "")
  iterator = stream(batches, first, run.epochs * per_epoch, per_call)
  told = logged = time.monotonic()
  take = trainer.step if per_call == 1 else trainer.steps
  for step, batch in zip(itertools.count(first + per_call, per_call), iterator):
    state, (losses, weights) = take(state, batch)
    line = ""
    if time.monotonic() - told > _SECONDS_PER_LINE:
      line, told = _line(trainer.tasks, losses, weights), time.monotonic()
    if progress is not None:
      progress(per_call, line)
    if step % per_epoch == 0:
      row = _row(trainer, run, step // per_epoch, state)
      history = [*history, row]
      best = _better(best, row, state)
      state = trainer.start_epoch(state)
      if writer is not None:
        _log_epoch(writer, row)
      if time.monotonic() - logged > _SECONDS_PER_LINE:
        _log(run, history)
        logged = time.monotonic()
    checkpoints.save_if_due(Snapshot(state, best, history))
  _log(run, history)
  return Snapshot(state, best, history)


def _start(trainer: Trainer, run: Run) -> Snapshot:
  state = trainer.init(run.seed, run.learning_rate, run.weights)
  return Snapshot(state, _model(np.inf, 0, state), [])


def _model(score: float, epoch: int, state: RunState) -> Best:
  # Copies: steps reuse the memory.
  params, rest = jax.tree.map(np.array, (state.params, state.rest))
  return Best(np.array(score), np.array(epoch), params, rest)


def _better(best: Best, row: dict[str, Any], state: RunState) -> Best:
  """Returns this epoch's model if the product of its losses is smaller."""
  losses = [np.nan if x is None else x for x in row["loss"].values()]
  with np.errstate(divide="ignore"):
    score = float(np.exp(np.mean(np.log(losses))))
  return _model(score, row["epoch"], state) if score < best.score else best


def _row(trainer: Trainer, run: Run, epoch: int, state: RunState) -> dict[str, Any]:
  """Makes an epoch's row of the history."""
  row = {"epoch": epoch, **state.epoch.means(trainer.tasks)}
  if run.record_stats:
    stats = gradient_stats(state.combination)
    if stats is not None:
      row["stats"] = {
        name: np.asarray(x).tolist() for name, x in stats._asdict().items()
      }
  for split in SPLITS:
    batches = trainer.problem.evaluation_batches(split)
    metrics = trainer.model.evaluate(state.params, state.rest, batches)
    if metrics is not None:
      row[split] = metrics
  return row


def summarise(
  snapshot: Snapshot, metrics: tuple[Metric, ...], last_epochs: int
) -> dict[str, Any]:
  """Collects the metrics of the best model, and the means over the last epochs."""
  history, epoch = snapshot.history, max(1, int(snapshot.best.epoch))
  splits = [split for split in SPLITS if split in history[-1]]
  names = [metric.name for metric in metrics]
  last = {
    split: {
      name: float(np.mean([row[split][name] for row in history[-last_epochs:]]))
      for name in names
    }
    for split in splits
  }
  best = {split: history[epoch - 1][split] for split in splits}
  return {"best_epoch": epoch, "best": best, "last": last, "history": history}


def _claim(run: Run, identity: dict[str, Any]) -> dict[str, Any] | None:
  """Returns the result if there is one; raises if the folder is another run's."""
  settings = run.out / "run.json"
  if settings.exists():
    there = json.loads(settings.read_text())
    differ = sorted(
      k for k in there | identity if there.get(k, None) != identity.get(k)
    )
    if differ:
      listed = "; ".join(
        f"{k}: {there.get(k)!r} there, {identity.get(k)!r} here" for k in differ
      )
      raise ValueError(f"{run.out} holds a run of other settings ({listed})")
    if not run.resume:
      raise ValueError(f"{run.out} holds this run: resume it, or choose another folder")
    result = run.out / "result.json"
    return json.loads(result.read_text()) if result.exists() else None
  _write(settings, json.dumps(identity, indent=1))
  return None


def _log(run: Run, history: list[dict[str, Any]]) -> None:
  """Writes the whole history as CSV."""
  rows = [dict(_flat(row)) for row in history]
  with (run.out / "history.csv.new").open("w", newline="") as file:
    table = csv.DictWriter(file, list(rows[0]))
    table.writeheader()
    table.writerows(rows)
  os.replace(run.out / "history.csv.new", run.out / "history.csv")


def _log_epoch(writer, row: dict[str, Any]) -> None:
  """Writes an epoch for TensorBoard."""
  for name, value in _flat(row):
    if value is not None:
      writer.add_scalar(name, value, row["epoch"])
  writer.flush()  # or a run that is killed leaves nothing


def _flat(row: dict[str, Any]):
  for name, value in row.items():
    if name == "stats":  # arrays, which a table has no room for
      continue
    if isinstance(value, dict):
      yield from ((f"{name}/{key}", inner) for key, inner in value.items())
    else:
      yield name, value


def _tensorboard(run: Run, epochs_done: int):
  if not run.tensorboard:
    return None
  from tensorboardX import SummaryWriter

  return SummaryWriter(str(run.out / "tensorboard"), purge_step=epochs_done + 1)


def _write(path: Path, text: str) -> None:
  """Writes a file completely or, if the process is killed, not at all."""
  new = path.with_name(path.name + ".new")
  new.write_text(text + "\n")
  os.replace(new, path)


def _line(tasks: tuple[str, ...], losses, weights) -> str:
  values = zip(tasks, np.asarray(losses), np.asarray(weights), strict=True)
  return ", ".join(f"{task} {loss:.3g} (w {w:.2f})" for task, loss, w in values)


def train_with_bar(trainer: Trainer, run: Run) -> dict[str, Any]:
  """Calls :func:`train` with a progress bar of steps, losses and weights."""
  total = run.epochs * trainer.steps_per_epoch
  with tqdm(total=total, unit="step", dynamic_ncols=True, smoothing=0.1) as bar:
    bar.set_description(run.method_name)

    def progress(steps: int, line: str) -> None:
      if line:
        bar.set_postfix_str(line, refresh=False)
      bar.update(steps)

    return train(trainer, run, progress)
