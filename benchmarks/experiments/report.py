"""Makes tables and figures from the runs of a sweep."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from benchmarks.experiments import comparison, figures, tables
from benchmarks.experiments.checkpoint import Best, load_model
from benchmarks.experiments.config import Settings
from benchmarks.experiments.model import Model
from benchmarks.experiments.noise import GradientNoise, gradient_noise
from benchmarks.experiments.problem import SPLITS, Problem
from benchmarks.experiments.step import Trainer
from benchmarks.experiments.summary import caption, judged_models
from benchmarks.experiments.sweep import joint_rows, read_summary, reported_seeds
from benchmarks.experiments.train import LAST
from benchmarks.experiments.tuning import Row

S = TypeVar("S", bound=Settings)
_MOST_CURVES = 10  # methods whose learning curves can be told apart


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
  """Make tables (Markdown, LaTeX) and figures from the sweep in ``out``."""

  data: Path | None = None
  """The data of the sweep; a problem without files has none."""
  out: Path = Path("out/run")
  """The sweep's folder."""
  to: Path | None = None
  """Folder to write into; default: ``out``."""
  weights_of: tuple[str, ...] = (
    "maxgnr-0.5",
    "maxgnr-0.9",
    "maxgnr-0.9-smoothed-0.9-own-heads",
    "mgda",
  )
  """Figure 4: methods whose weights are shown; those that the sweep lacks are not."""
  noise_of: tuple[str, ...] = ("equal-weights", "maxgnr-0.9")
  """Figures 1 (the first) and 5: methods whose gradients are measured. The GNR over
  training is shown of these and of those whose weights are shown."""


def settings_of(kind: type[S], out: Path, data: Path | None) -> S:
  """Reads the settings that the sweep in ``out`` was run with; not where its data are.

  Raises:
    ValueError: if there is no sweep that came to its end, or the problem needs data
      and got none.
  """
  fields = {field.name for field in dataclasses.fields(kind)}
  saved: dict[str, Any] = {
    name: tuple(value) if isinstance(value, list) else value
    for name, value in read_summary(out)["settings"].items()
    if name in fields
  }
  if "data" in fields:
    if data is None:
      raise ValueError("the problem's data are files: give the sweep's --data")
    saved["data"] = data
  return kind(out=out, **saved)


def report(
  model: Model, options: Report, reference: tables.Reference | None = None
) -> dict[str, Any]:
  """Writes tables, figures and, beside them, every number; returns the summary.

  Args:
    model: The model of the sweep.
    options: The methods to show, and the folders.
    reference: Published numbers to print beside ours.

  Raises:
    ValueError: if there is no sweep, or it is not of this problem.
  """
  out, problem = options.out, model.problem
  summary = read_summary(out)
  if summary["problem"] != problem.title:
    raise ValueError(
      f"{out} has the results of {summary['problem']!r}, not of {problem.title!r}: "
      "give the data of the sweep"
    )
  to = options.to or out
  to.mkdir(parents=True, exist_ok=True)
  rows = summary["rows"]
  settings = summary["settings"]
  seeds = reported_seeds(
    settings["seeds"],
    settings["tuning_seeds"],
    settings.get("tuning_seeds_apart", False),
  )
  of_method = joint_rows(summary, ())
  joint = {
    m: _histories(out, row.name, rows[m]["learning_rate"], seeds)
    for m, row in of_method.items()
  }
  single_task = {}
  if "single-task" in rows:
    single_task["single-task"] = _single_task(problem, out, rows["single-task"], seeds)
  _draw_training(problem, options, joint, single_task, to)
  summary["last_epochs"] = {
    method: _last_epochs(problem, histories) for method, histories in joint.items()
  }
  measured = {
    m: _measured(model, out, of_method[m], summary, seeds[0])
    for m in options.noise_of
    if m in of_method
  }
  if measured:
    first, (noise, _) = next(iter(measured.items()))
    title = f"{problem.title}, {first}"
    figures.gradient_norms(noise, problem.tasks, title, to / "gradient_norms.png")
    figures.norms_and_gnr(measured, problem.tasks, problem.title, to / "gnr.png")
    summary["gradient_noise"] = {
      method: _numbers(problem, noise, weights)
      for method, (noise, weights) in measured.items()
    }
  for judged in judged_models(settings):
    figures.delta_m(summary, judged, to / f"delta_m_{judged}.png")
    latex = tables.latex(summary, judged, reference)
    (to / f"table_{judged}.tex").write_text(latex + "\n")
  (to / "table.md").write_text(text(summary, reference) + "\n")
  (to / "results.json").write_text(json.dumps(summary, indent=1) + "\n")
  return summary


def text(summary: dict, reference: tables.Reference | None = None) -> str:
  """Formats all Markdown tables under headings that name the judged models."""
  parts = []
  for judged in judged_models(summary["settings"]):
    parts.append(
      f"{summary['problem']}; test set, {caption(judged, summary['settings'])}:"
    )
    parts.append(tables.markdown(summary, judged, reference))
  return "\n\n".join([*parts, comparison.markdown(summary)])


def _draw_training(
  problem: Problem,
  options: Report,
  joint: figures.Histories,
  single_task: figures.Histories,
  to: Path,
) -> None:
  """Draws the figures that have epochs on their horizontal axis."""
  tasks, title = problem.tasks, problem.title
  shown = {method: joint[method] for method in options.weights_of if method in joint}
  if shown:
    figures.over_training(shown, "weight", tasks, title, to / "weights.png")
  methods = dict.fromkeys((*options.noise_of, *options.weights_of))
  measured = {m: joint[m] for m in methods if m in joint and _measures_gnr(joint[m])}
  if measured:
    path = to / "gnr_over_training.png"
    figures.over_training(measured, "gnr", tasks, title, path)
  if len(joint) <= _MOST_CURVES:
    metrics = [metric for metric in problem.metrics if metric.shown]
    every = {**single_task, **joint}
    figures.curves(every, metrics, title, to / "curves.png")


def _folder(out: Path, method: str, rate: float, seed: int) -> Path:
  return out / "runs" / method / f"lr-{rate:g}" / f"seed-{seed}"


def _history(folder: Path) -> list[dict[str, Any]]:
  return json.loads((folder / "result.json").read_text())["history"]


def _histories(
  out: Path, method: str, rate: float, seeds: Sequence[int]
) -> list[list[dict[str, Any]]]:
  """Reads the histories of a method's seeds at the learning rate that was chosen."""
  return [_history(_folder(out, method, rate, seed)) for seed in seeds]


def _single_task(
  problem: Problem, out: Path, row: dict[str, Any], seeds: Sequence[int]
) -> list[list[dict[str, Any]]]:
  """Merges histories by seed, so that each metric is that of its task's own model."""
  of_task = {
    task: _histories(out, f"single-task-{task}", rate, seeds)
    for task, rate in row["learning_rates"].items()
  }

  def merged(index: int, epoch: int) -> dict[str, Any]:
    own = {task: histories[index][epoch] for task, histories in of_task.items()}
    any_row = next(iter(own.values()))
    return {"epoch": any_row["epoch"]} | {
      split: {m.name: own[m.task][split][m.name] for m in problem.metrics}
      for split in SPLITS
      if split in any_row
    }

  any_task = next(iter(of_task.values()))
  return [
    [merged(index, epoch) for epoch in range(len(history))]
    for index, history in enumerate(any_task)
  ]


def _measures_gnr(seeds: Sequence[list[dict[str, Any]]]) -> bool:
  """Says whether the method's state holds the tasks' GNRs."""
  return None not in seeds[0][-1]["gnr"].values()


def _last_epochs(
  problem: Problem, seeds: Sequence[list[dict[str, Any]]]
) -> dict[str, dict[str, float]]:
  """Averages weights, and GNRs geometrically, over seeds and the last epochs."""
  rows = [row for history in seeds for row in history[-LAST:]]

  def values(quantity: str) -> np.ndarray:
    found = [[row[quantity][task] for task in problem.tasks] for row in rows]
    return np.array(found, float)  # None becomes NaN

  with np.errstate(divide="ignore"):
    gnr = np.exp(np.log(values("gnr")).mean(0))
  return {
    name: dict(zip(problem.tasks, x.tolist(), strict=True))
    for name, x in {"weight": values("weight").mean(0), "gnr": gnr}.items()
    if np.isfinite(x).all()
  }


def _measured(
  model: Model, out: Path, row: Row, summary: dict[str, Any], seed: int
) -> tuple[GradientNoise, np.ndarray]:
  """Measures the gradients of one seed's best model; adds its weights."""
  rate = summary["rows"][row.method]["learning_rate"]
  folder = _folder(out, row.name, rate, seed)
  settings = summary["settings"]
  trainer = Trainer(
    model, row.method, (), settings["batch_size"], settings["microbatches"]
  )
  state = trainer.init(0, 1.0)
  like = Best(np.array(0.0), np.array(0), state.params, state.rest)
  best = load_model(folder / "model", like)
  weights = _history(folder)[int(best.epoch) - 1]["weight"]
  return gradient_noise(trainer, best, seed=0), np.array([*weights.values()], float)


def _numbers(
  problem: Problem, noise: GradientNoise, weights: np.ndarray
) -> dict[str, dict[str, float]]:
  """Lists the numbers of figure 5 by task."""
  values = {
    "weight": weights,
    "median_norm": np.median(noise.norms, axis=0),
    "gnr_single": noise.single_task_gnr(),
    "gnr_multi": noise.task_gnr(weights),
  }
  return {
    name: dict(zip(problem.tasks, x.tolist(), strict=True))
    for name, x in values.items()
  }
