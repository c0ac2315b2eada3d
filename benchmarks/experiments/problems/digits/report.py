"""The results as JSON and as a table."""

import json
from pathlib import Path

import numpy as np
from tabulate import tabulate

from benchmarks.experiments.metric import mean_and_error
from benchmarks.experiments.problems.digits.experiment import (
  LAST,
  LEARNING_RATES,
  Result,
  delta_m,
  final,
  measures_gnr,
  single_task_metrics,
)
from benchmarks.experiments.problems.digits.model import TASKS
from benchmarks.experiments.problems.digits.train import BATCH_SIZE, EVALUATE_EVERY
from benchmarks.machine import describe_machine

# Steps of the evaluations that a result is the mean of; the median GNR is of these.
FINAL_STEPS = LAST * EVALUATE_EVERY


def summarise(
  single: dict[str, Result], joint: dict[str, Result], settings: dict
) -> dict:
  """Every published number, per seed, with what it takes to make it again."""
  base = single_task_metrics(single, "test")

  def entry(result: Result, tasks: list[str], values: np.ndarray) -> dict:
    per_task = dict(zip(tasks, values.T.tolist(), strict=True))
    scores = {str(rate): score for rate, score in result.score.items()}
    return {
      "learning_rate": result.learning_rate,
      "validation_score": scores,
      "test": per_task,
    }

  names = list(TASKS)
  summary: dict = {
    **settings,
    "batch_size": BATCH_SIZE,
    "learning_rates": LEARNING_RATES,
    "metrics": {name: task.metric for name, task in TASKS.items()},
    "machine": describe_machine(),
    "single_task": {},
    "methods": {},
  }
  for index, (task, result) in enumerate(single.items()):
    values = final(result.history.test)[:, index : index + 1]
    summary["single_task"][task] = entry(result, [task], values)
  for name, result in joint.items():
    values = final(result.history.test)
    summary["methods"][name] = {
      **entry(result, names, values),
      "delta_m": [delta_m(row, base) for row in values],
      "mean_weights": _by_task(result.history.weights.mean((0, 1))),
    }
    if measures_gnr(result):
      gnr = np.median(result.history.gnr[:, -FINAL_STEPS:], (0, 1))
      summary["methods"][name]["final_gnr"] = _by_task(gnr)
  return summary


def _by_task(values: np.ndarray) -> dict[str, float]:
  return dict(zip(TASKS, values.tolist(), strict=True))


def table(summary: dict) -> str:
  """The summary as a Markdown table: mean ± standard error over seeds."""
  better = {1: "↑", -1: "↓"}
  header = [
    "method",
    *(f"{name} {task.metric} {better[task.sign]}" for name, task in TASKS.items()),
    "Δm % ↑",
    "learning rate",
  ]
  digits = [1 if task.metric == "accuracy" else 4 for task in TASKS.values()]
  single = summary["single_task"]
  rates = sorted({entry["learning_rate"] for entry in single.values()})
  rows = [
    [
      "single-task models",
      *(
        mean_and_error(single[name]["test"][name], places)
        for name, places in zip(TASKS, digits, strict=True)
      ),
      "0",
      ", ".join(f"{rate:g}" for rate in rates),
    ]
  ]
  for name, entry in summary["methods"].items():
    rows.append(
      [
        name,
        *(
          mean_and_error(entry["test"][task], places)
          for task, places in zip(TASKS, digits, strict=True)
        ),
        mean_and_error(entry["delta_m"], 1),
        f"{entry['learning_rate']:g}",
      ]
    )
  return tabulate(rows, header, tablefmt="github", disable_numparse=True)


def write(summary: dict, out: Path) -> None:
  """Writes ``results.json`` and ``table.md``."""
  (out / "results.json").write_text(json.dumps(summary, indent=1) + "\n")
  (out / "table.md").write_text(table(summary) + "\n")
