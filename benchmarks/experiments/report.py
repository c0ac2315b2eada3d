"""Tables and figures of a sweep."""

import dataclasses
import json
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from benchmarks.experiments import figures, tables
from benchmarks.experiments.checkpoint import Best, load_model
from benchmarks.experiments.config import Settings
from benchmarks.experiments.model import Model
from benchmarks.experiments.noise import GradientNoise, gradient_noise
from benchmarks.experiments.problem import Problem
from benchmarks.experiments.step import Trainer
from benchmarks.experiments.summary import JUDGED

S = TypeVar("S", bound=Settings)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
  """Tables (Markdown, LaTeX) and figures of what a sweep left in ``out``."""

  data: Path
  """The data of the sweep."""
  out: Path = Path("out/run")
  """The sweep's folder."""
  to: Path | None = None
  """Folder to write into; default: ``out``."""
  weights_of: tuple[str, ...] = ("maxgnr-0.9", "mgda")
  """Figure 4: methods whose weights are shown; those that the sweep lacks are not."""
  noise_of: tuple[str, ...] = ("equal-weights", "maxgnr-0.9")
  """Figures 1 (the first) and 5: methods whose gradients are measured."""


def settings_of(kind: type[S], options: Report) -> S:
  """The sweep's settings, as it left them.

  Raises:
    ValueError: if there is no sweep that came to its end.
  """
  fields = {field.name for field in dataclasses.fields(kind)}
  saved: dict[str, Any] = {
    name: tuple(value) if isinstance(value, list) else value
    for name, value in _summary(options.out)["settings"].items()
    if name in fields
  }
  return kind(data=options.data, out=options.out, **saved)


def _summary(out: Path) -> dict[str, Any]:
  path = out / "results.json"
  if not path.exists():
    raise ValueError(f"there is no {path}: run `sweep --out {out}` to its end first")
  return json.loads(path.read_text())


def report(
  model: Model, options: Report, reference: tables.Reference | None = None
) -> dict[str, Any]:
  """Writes tables, figures and, beside them, every number; returns the summary.

  Args:
    model: As in the sweep.
    options: What to show.
    reference: Published numbers to print beside ours.

  Raises:
    ValueError: if there is no sweep, or it is not of this problem.
  """
  out, problem = options.out, model.problem
  summary = _summary(out)
  if summary["problem"] != problem.title:
    raise ValueError(
      f"{out} has the results of {summary['problem']!r}, not of {problem.title!r}: "
      "give the data of the sweep"
    )
  to = options.to or out
  to.mkdir(parents=True, exist_ok=True)
  rows = summary["rows"]
  shown = {m: _histories(out, m, rows) for m in options.weights_of if m in rows}
  if shown:
    figures.weights(shown, problem.tasks, problem.title, to / "weights.png")
  measured = {
    m: _measured(model, out, m, summary) for m in options.noise_of if m in rows
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
  for judged in JUDGED:
    figures.delta_m(summary, judged, to / f"delta_m_{judged}.png")
    latex = tables.latex(summary, judged, reference)
    (to / f"table_{judged}.tex").write_text(latex + "\n")
  (to / "table.md").write_text(tables.whole(summary, reference) + "\n")
  (to / "results.json").write_text(json.dumps(summary, indent=1) + "\n")
  return summary


def _folder(out: Path, method: str, rows: dict[str, Any], seed: int) -> Path:
  rate = rows[method]["learning_rate"]
  return out / "runs" / method / f"lr-{rate:g}" / f"seed-{seed}"


def _histories(out: Path, method: str, rows: dict[str, Any]) -> list[list[dict]]:
  seeds = range(len(rows[method]["delta_m"]["last"]))
  paths = [_folder(out, method, rows, seed) / "result.json" for seed in seeds]
  return [json.loads(path.read_text())["history"] for path in paths]


def _measured(
  model: Model, out: Path, method: str, summary: dict[str, Any]
) -> tuple[GradientNoise, np.ndarray]:
  """The first seed's best model: its gradients, and its weights in that epoch."""
  folder = _folder(out, method, summary["rows"], 0)
  settings = summary["settings"]
  trainer = Trainer(
    model, method, None, settings["batch_size"], settings["microbatches"]
  )
  state = trainer.init(0, 1.0)
  like = Best(np.array(0.0), np.array(0), state.params, state.rest)
  best = load_model(folder / "model", like)
  history = json.loads((folder / "result.json").read_text())["history"]
  weights = history[int(best.epoch) - 1]["weight"]
  return gradient_noise(trainer, best, seed=0), np.array(list(weights.values()))


def _numbers(
  problem: Problem, noise: GradientNoise, weights: np.ndarray
) -> dict[str, dict[str, float]]:
  """What figure 5 shows, by task."""
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
