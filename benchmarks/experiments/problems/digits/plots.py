"""The figures: weights, gradient-to-noise ratios, learning curves."""

from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.experiments.problems.digits.experiment import Result, measures_gnr
from benchmarks.experiments.problems.digits.model import TASKS
from benchmarks.experiments.problems.digits.train import EVALUATE_EVERY

COLOURS = mpl.color_sequences["tab10"]
# Lines may coincide; each is thinner than the one drawn before.
WIDTHS = (5.0, 3.6, 2.2, 1.0)


def write(
  single: dict[str, Result], joint: dict[str, Result], summary: dict, out: Path
) -> None:
  """Writes the figures: ``delta_m.png``, ``weights.png`` and two more.

  ``gnr.png`` where it was measured; ``curves.png`` while the lines can be told apart.
  """
  _delta_m(summary, out / "delta_m.png")
  _per_step(joint, "weights", "task weight", out / "weights.png")
  measured = {name: result for name, result in joint.items() if measures_gnr(result)}
  if measured:
    _per_step(measured, "gnr", "gradient-to-noise ratio", out / "gnr.png")
  if len(joint) <= len(COLOURS):
    _curves(single, joint, out / "curves.png")


def _delta_m(summary: dict, path: Path) -> None:
  """One row per method, the best on top: every seed, and their mean."""
  values = {name: entry["delta_m"] for name, entry in summary["methods"].items()}
  names = sorted(values, key=lambda name: np.mean(values[name]))
  figure = Figure(figsize=(7, 1.2 + 0.2 * len(names)), layout="constrained")
  ax = figure.add_subplot()
  for row, name in enumerate(names):
    colour = "tab:red" if name.startswith("maxgnr") else "tab:blue"
    ax.plot(values[name], [row] * len(values[name]), ".", color=colour, alpha=0.5)
    ax.plot(np.mean(values[name]), row, "|", color=colour, ms=12, mew=2)
  ax.axvline(0, color="black", ls="--", lw=1)
  # What falls far behind would press all others into a corner.
  ax.set_xscale("symlog", linthresh=100)
  ax.set_xlim(right=max(10.0, 1.2 * max(map(max, values.values()))))
  ax.set(yticks=range(len(names)), yticklabels=names, ylim=(-1, len(names)))
  ax.set_xlabel("Δm % against single-task models, test (dots: seeds; bar: mean)")
  ax.grid(alpha=0.3)
  figure.savefig(path, dpi=110)


def _per_step(joint: dict[str, Result], field: str, label: str, path: Path) -> None:
  """One panel per method, one line per task; the median of each stretch of steps."""
  columns = min(len(joint), 6)
  rows = -(-len(joint) // columns)
  figure = Figure(figsize=(1 + 3 * columns, 0.4 + 2.8 * rows), layout="constrained")
  axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
  for ax in axes.flat[len(joint) :]:
    ax.set_axis_off()
  for ax, (name, result) in zip(axes.flat, joint.items(), strict=False):
    values = getattr(result.history, field)  # [seeds, steps, tasks]
    values = values.reshape(len(values), -1, EVALUATE_EVERY, len(TASKS))
    steps = EVALUATE_EVERY * (np.arange(values.shape[1]) + 0.5)
    for task, task_name in enumerate(TASKS):
      median = np.median(values[..., task], axis=2)
      style = {"color": COLOURS[task], "lw": WIDTHS[task]}
      _line(ax, steps, median, task_name, style)
    ax.set(title=name, xlabel="step", yscale="log")
    ax.grid(alpha=0.3)
  for ax in axes[:, 0]:
    ax.set_ylabel(label)
  axes.flat[len(joint) - 1].legend(fontsize="small")
  figure.savefig(path, dpi=110 if rows == 1 else 55)


def _curves(single: dict[str, Result], joint: dict[str, Result], path: Path) -> None:
  """One panel per task, one line per method; metrics on the validation canvases."""
  figure = Figure(figsize=(13, 3.6), layout="constrained")
  for index, (name, task) in enumerate(TASKS.items()):
    ax = figure.add_subplot(1, len(TASKS), index + 1)
    results = {"single-task model": single[name], **joint}
    styles: list[dict] = [{"color": "black", "ls": "--"}]
    styles += [{"color": colour} for colour in COLOURS]
    for style, (label, result) in zip(styles, results.items(), strict=False):
      values = result.history.validation[..., index]  # [seeds, evaluations]
      steps = EVALUATE_EVERY * np.arange(1, values.shape[1] + 1)
      _line(ax, steps, values, label, style)
    ax.set(title=name, xlabel="step", ylabel=f"{task.metric}, validation")
    if task.sign < 0:
      ax.set_yscale("log")
    ax.grid(alpha=0.3)
  handles, labels = figure.axes[0].get_legend_handles_labels()
  figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
  figure.savefig(path, dpi=110)


def _line(ax: Axes, x: np.ndarray, values: np.ndarray, label: str, style: dict) -> None:
  """The mean over seeds [S, X] as a line, their range as a band."""
  ax.plot(x, values.mean(0), label=label, **style)
  band = (values.min(0), values.max(0))
  ax.fill_between(x, *band, color=style["color"], alpha=0.2, lw=0)
