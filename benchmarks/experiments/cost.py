"""Measures what a step of each row costs, and what the row reaches in equal time.

``python -m benchmarks.experiments PROBLEM cost`` reads a finished sweep, times its rows
beside plain training of a weighted sum of the losses, which takes one backward pass,
and trains each row again in as many epochs as plain training has time for.
"""

import dataclasses
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tabulate import tabulate
from tqdm import tqdm

from benchmarks.experiments.config import ManyRuns, Run
from benchmarks.experiments.loading import stream
from benchmarks.experiments.metric import (
  Metric,
  delta_m,
  mean_and_error,
  mean_over_seeds,
)
from benchmarks.experiments.model import Model
from benchmarks.experiments.runner import Runner
from benchmarks.experiments.summary import baseline_of, by_seed
from benchmarks.experiments.sweep import (
  command,
  joint_rows,
  read_summary,
  reported_seeds,
)
from benchmarks.experiments.tuning import Job, Row
from benchmarks.machine import describe_machine
from benchmarks.methods import FIXED_WEIGHTS
from benchmarks.speed.timing import interleave

PLAIN = Row(FIXED_WEIGHTS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cost:
  """Time the steps of a sweep's rows, and train each in the time of plain training."""

  data: Path | None = None
  """The data of the sweep; a problem without files has none."""
  out: Path = Path("out/run")
  """The sweep's folder."""
  methods: tuple[str, ...] = ()
  """Rows of the sweep; none: all but single-task models."""
  rounds: int = 15
  """Times that each row is timed, in turn with the others."""

  def __post_init__(self) -> None:
    """Checks the settings before anything is loaded."""
    if self.rounds < 1:
      raise ValueError(f"rounds must be at least 1, got {self.rounds}")


def cost(model: Model, options: Cost, settings: ManyRuns, kind: type[Run]) -> str:
  """Writes ``cost.json`` and ``cost.md`` to ``options.out``; returns the table.

  Args:
    model: What is trained.
    options: The rows, and the sweep's folder.
    settings: Those of the sweep.
    kind: The settings of one run, which have those of the problem.

  Raises:
    ValueError: if the sweep lacks one of the rows.
  """
  summary = read_summary(options.out)
  rows = joint_rows(summary, options.methods)
  runner = Runner(model, settings, kind)
  ratios = step_times(runner, [*rows.values()], options.rounds)
  found = {
    name: {
      "ratio": float(np.median(ratios[row])),
      "ratio_quartiles": np.quantile(ratios[row], [0.25, 0.75]).tolist(),
    }
    for name, row in rows.items()
  }
  for name, row in rows.items():
    epochs = equal_epochs(settings.epochs, found[name]["ratio"])
    rate = summary["rows"][name]["learning_rate"]
    found[name]["epochs"] = epochs
    found[name]["delta_m"] = _reached(model, settings, kind, summary, row, rate, epochs)
  whole = {
    "command": command(),
    "machine": describe_machine(),
    "rounds": options.rounds,
    "rows": found,
  }
  text = markdown(summary, whole)
  (options.out / "cost.json").write_text(json.dumps(whole, indent=1) + "\n")
  (options.out / "cost.md").write_text(text + "\n")
  return text


def equal_epochs(epochs: int, ratio: float) -> int:
  """Computes how many epochs fit in the time that plain training takes for all."""
  return max(1, round(epochs / ratio))


def step_times(
  runner: Runner, rows: Sequence[Row], rounds: int
) -> dict[Row, list[float]]:
  """Measures the time of a step of each row, relative to :data:`PLAIN`, by round."""
  settings, per_call = runner.settings, runner.settings.steps_per_call
  batches = runner.problem.train_batches(settings.batch_size, 0)
  batch = next(stream(batches, 0, per_call, per_call))
  every = {row.name: row for row in (PLAIN, *rows)}
  runs = {name: _stepper(runner, row, batch) for name, row in every.items()}
  with tqdm(total=rounds, desc="timing", unit="round", dynamic_ncols=True) as bar:
    seconds = interleave(runs, rounds, bar.update)
  plain = seconds[PLAIN.name]
  return {
    row: [x / y for x, y in zip(seconds[row.name], plain, strict=True)] for row in rows
  }


def _stepper(runner: Runner, row: Row, batch: Any) -> Callable[[], float]:
  """Makes a function that takes the steps of one call; it returns the seconds."""
  trainer = runner.trainer(row)
  state = trainer.init(0, 1e-4, row.weights)
  several = trainer.steps_per_call > 1

  def take() -> float:
    nonlocal state
    begun = time.perf_counter()
    state, _ = trainer.steps(state, batch) if several else trainer.step(state, batch)
    jax.block_until_ready(state)
    return time.perf_counter() - begun

  take()  # compiles
  return take


def _reached(
  model: Model,
  settings: ManyRuns,
  kind: type[Run],
  summary: Mapping[str, Any],
  row: Row,
  rate: float,
  epochs: int,
) -> list[float]:
  """Computes the Δm of a row that is trained for so many epochs, by seed."""
  if epochs == settings.epochs:
    return summary["rows"][row.method]["delta_m"]["last"]
  out = settings.out / "equal-time" / f"{epochs}-epochs"
  shorter = dataclasses.replace(settings, epochs=epochs, out=out)
  seeds = reported_seeds(
    settings.seeds, settings.tuning_seeds, settings.tuning_seeds_apart
  )
  jobs = [Job(row, rate, seed) for seed in seeds]
  results = Runner(model, shorter, kind).run(jobs, f"{row.method}, {epochs} epochs")
  metrics = [Metric(**metric) for metric in summary["metrics"] if metric["in_delta_m"]]
  baseline = summary["rows"][baseline_of(summary)[0]]["test"]["last"]
  base = mean_over_seeds(by_seed(baseline), metrics)
  return [delta_m(results[job]["last"]["test"], base, metrics) for job in jobs]


def markdown(summary: Mapping[str, Any], found: Mapping[str, Any]) -> str:
  """Formats a table, the row that reaches most in equal time first."""
  lines = []
  by_delta_m = sorted(
    found["rows"].items(),
    key=lambda item: -np.nan_to_num(np.mean(item[1]["delta_m"]), nan=-np.inf),
  )
  for name, row in by_delta_m:
    low, high = row["ratio_quartiles"]
    lines.append(
      [
        name,
        f"{row['ratio']:.2f} ({low:.2f} to {high:.2f})",
        str(row["epochs"]),
        mean_and_error(summary["rows"][name]["delta_m"]["last"], 1),
        mean_and_error(row["delta_m"], 1),
      ]
    )
  header = [
    "method",
    "time of a step (quartiles)",
    "epochs in equal time",
    "Δm % ↑ in equal steps",
    "Δm % ↑ in equal time",
  ]
  table = tabulate(lines, header, tablefmt="github", disable_numparse=True)
  machine = found["machine"]
  return (
    f"{summary['problem']}; the time of a step relative to one of plain training, "
    f"{found['rounds']} rounds ({machine['processor']}):\n\n{table}"
  )
