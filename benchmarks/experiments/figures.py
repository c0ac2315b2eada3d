"""The paper's figures 1, 4 and 5, learning curves, and a figure of Δm."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.experiments.metric import Metric
from benchmarks.experiments.noise import GradientNoise
from benchmarks.experiments.problem import SPLITS
from benchmarks.experiments.summary import baseline_of, caption

COLOURS = mpl.color_sequences["tab20"]
_MANY = 6  # with more tasks a legend has no room
_QUANTITIES = {
  "weight": "task weight, mean of the epoch",
  "gnr": "gradient-to-noise ratio of the epoch",
}

# Method -> histories of its seeds, as in a run's ``result.json``.
Histories = Mapping[str, Sequence[list[dict[str, Any]]]]


def delta_m(summary: dict[str, Any], judged: str, path: Path) -> None:
  """Draws Δm, a row per method with every seed and the mean, the best on top."""
  baseline, text = baseline_of(summary)
  values = {name: row["delta_m"][judged] for name, row in summary["rows"].items()}
  names = sorted(
    values, key=lambda name: np.nan_to_num(np.mean(values[name]), nan=-1e9)
  )
  figure = Figure(figsize=(8, 1.2 + 0.22 * len(names)), layout="constrained")
  ax = figure.add_subplot()
  for row, name in enumerate(names):
    colour = "tab:red" if name.startswith("maxgnr") else "tab:blue"
    colour = "black" if name == baseline else colour
    ax.plot(values[name], [row] * len(values[name]), ".", color=colour, alpha=0.5)
    ax.plot(np.mean(values[name]), row, "|", color=colour, ms=12, mew=2)
  ax.axvline(0, color="black", ls="--", lw=1)
  error = _only_error(summary)
  far = min(map(min, values.values())) < -100  # it would press the others
  if far and not error:  # whose Δm is a logarithm already
    ax.set_xscale("symlog", linthresh=100)
    ax.set_xlim(right=max(10.0, 1.2 * max(map(max, values.values()))))
  ax.set(yticks=range(len(names)), yticklabels=names, ylim=(-1, len(names)))
  ax.set_xlabel(f"Δm % against {text}, test\n(dots: seeds; bar: mean)")
  ax.set_title(
    f"{summary['problem']}\n{caption(judged, summary['settings'])}", fontsize="medium"
  )
  ax.grid(alpha=0.3)
  if error:
    _errors_on_top(ax, summary, error, judged)
  figure.savefig(path, dpi=110)


def _only_error(summary: dict[str, Any]) -> dict[str, Any] | None:
  """Returns the metric that Δm is the logarithm of, if it is of one only."""
  metrics = [metric for metric in summary["metrics"] if metric["in_delta_m"]]
  if len(metrics) > 1 or not metrics[0].get("by_ratio"):  # older results do not have it
    return None
  return metrics[0]


def _errors_on_top(
  ax: Axes, summary: dict[str, Any], error: dict[str, Any], judged: str
) -> None:
  """Adds an axis with the metric that Δm is the logarithm of."""
  baseline = summary["rows"][baseline_of(summary)[0]]
  base = np.mean(np.log(baseline["test"][judged][error["name"]]))
  low, high = ax.get_xlim()
  marks = np.outer(10.0 ** np.arange(-6, 3), [1, 2, 5]).ravel()
  at = -100 * (np.log(marks) - base)
  inside = (low < at) & (at < high)
  top = ax.secondary_xaxis("top")
  top.set_xticks(at[inside], [f"{mark:g}" for mark in marks[inside]])
  top.set_xlabel(error["label"])


def gradient_norms(noise: GradientNoise, tasks: Sequence[str], title: str, path: Path):
  """Draws figure 1, the distribution of the norms of the batches' gradients."""
  figure = Figure(figsize=(6.5, 3.6), layout="constrained")
  ax = figure.add_subplot()
  _norms(ax, noise, tasks)
  ax.set(title=title, ylabel="batches")
  if len(tasks) <= _MANY:
    ax.legend()
  figure.savefig(path, dpi=110)


def over_training(
  histories: Histories,
  quantity: str,
  tasks: Sequence[str],
  title: str,
  path: Path,
) -> None:
  """Draws figure 4, or the GNR in the same way: a panel per method, a line per task.

  A line is the mean over seeds, a band their range.

  Args:
    histories: Method -> histories of its seeds.
    quantity: ``"weight"`` or ``"gnr"``, the column of a history that is drawn.
    tasks: Sorted names.
    title: The figure's title.
    path: PNG to write.
  """
  rows, columns, figure = _grid(len(histories), 6, 3.0)
  axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
  for ax in axes.flat[len(histories) :]:
    ax.set_axis_off()
  for ax, (method, seeds) in zip(axes.flat, histories.items(), strict=False):
    for index, task in enumerate(tasks):
      values = [[row[quantity][task] for row in rows] for rows in seeds]
      # Lines may coincide: each is thinner than the one before.
      width = max(1.0, 4.0 - index) if len(tasks) <= _MANY else 1.0
      style = {"color": task_colour(index), "lw": width, "label": task}
      _line(ax, seeds[0], np.array(values, float), style)
    ax.set_title(method, fontsize="small")
    ax.grid(alpha=0.3)
  for ax in axes[-1]:
    ax.set_xlabel("epoch")
  for ax in axes[:, 0]:
    ax.set_ylabel(_QUANTITIES[quantity])
  if quantity == "gnr":
    axes[0][0].set_yscale("log")
  else:
    axes[0][0].set_ylim(bottom=0)
  if len(tasks) <= _MANY:
    axes.flat[len(histories) - 1].legend(fontsize="small")
  figure.suptitle(title, fontsize="medium")
  figure.savefig(path, dpi=110 if rows == 1 else 70)


def curves(
  histories: Histories, metrics: Sequence[Metric], title: str, path: Path
) -> None:
  """Draws learning curves, a panel per metric and a line per method.

  They are those of the validation data, or of the test set if there are none. The row
  ``single-task`` is dashed; each of its metrics is that of the task's own model.

  Args:
    histories: Method -> histories of its seeds.
    metrics: The panels.
    title: The figure's title.
    path: PNG to write.
  """
  rows, columns, figure = _grid(len(metrics), 4, 3.2)
  axes = figure.subplots(rows, columns, sharex=True, squeeze=False)
  for ax in axes.flat[len(metrics) :]:
    ax.set_axis_off()
  first = next(iter(histories.values()))[0][0]
  split = next(split for split in SPLITS if split in first)
  for ax, metric in zip(axes.flat, metrics, strict=False):
    colours = iter(mpl.color_sequences["tab10"])
    for method, seeds in histories.items():
      values = [[row[split][metric.name] for row in rows] for rows in seeds]
      style: dict[str, Any] = {"color": "black", "ls": "--"}
      if method != "single-task":
        style = {"color": next(colours)}
      _line(ax, seeds[0], np.array(values, float), style | {"label": method})
    ax.set_title(f"{metric.task} {metric.label}", fontsize="small")
    ax.grid(alpha=0.3)
    if metric.sign < 0:
      ax.set_yscale("log")
  for ax in axes[-1]:
    ax.set_xlabel("epoch")
  handles, labels = axes.flat[0].get_legend_handles_labels()
  figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize="small")
  figure.suptitle(f"{title}, {split}", fontsize="medium")
  figure.savefig(path, dpi=110 if rows == 1 else 70)


def _grid(panels: int, most: int, side: float) -> tuple[int, int, Figure]:
  """Chooses rows and columns for so many panels, and makes a figure of that size."""
  rows = -(-panels // most)
  columns = -(-panels // rows)
  size = (1 + side * columns, 0.8 + 0.9 * side * rows)
  return rows, columns, Figure(figsize=size, layout="constrained")


def _line(ax, rows: list[dict], values: np.ndarray, style: dict[str, Any]) -> None:
  """Draws the mean of values [seeds, epochs] as a line, their range as a band."""
  epochs = [row["epoch"] for row in rows]
  ax.plot(epochs, values.mean(0), **style)
  band = (values.min(0), values.max(0))
  ax.fill_between(epochs, *band, color=style["color"], alpha=0.2, lw=0)


def norms_and_gnr(
  models: Mapping[str, tuple[GradientNoise, np.ndarray]],
  tasks: Sequence[str],
  title: str,
  path: Path,
) -> None:
  """Draws figure 5: the norms' distributions, and GNR_S beside GNR_M of each task.

  A bar of 0 has no place on the logarithmic axis, and is written: no gradient could be
  told from the noise of an epoch.

  Args:
    models: Method -> gradient noise of its best model, and its weights [K].
    tasks: Sorted names.
    title: The figure's title.
    path: PNG to write.
  """
  figure = Figure(figsize=(11, 1 + 2.7 * len(models)), layout="constrained")
  axes = figure.subplots(len(models), 2, squeeze=False, sharex="col", sharey="col")
  for (left, right), (method, (noise, weights)) in zip(
    axes, models.items(), strict=True
  ):
    _norms(left, noise, tasks)
    left.set(title=f"{method}: gradient norms", ylabel="batches")
    at = np.arange(len(tasks))
    own, of_all = noise.single_task_gnr(), noise.task_gnr(weights)
    right.bar(at - 0.2, own, 0.4, label="GNR$_S$, own noise only")
    right.bar(at + 0.2, of_all, 0.4, label="GNR$_M$, noise of all")
    for bars, side in ((own, -0.2), (of_all, 0.2)):
      for task in at[bars == 0]:
        at_foot = right.get_xaxis_transform()
        right.text(task + side, 0.02, "0", transform=at_foot, ha="center")
    right.set(title=f"{method}: gradient-to-noise ratio", yscale="log")
    right.set_xticks(at, tasks, rotation=0 if len(tasks) <= _MANY else 60)
    right.grid(alpha=0.3, axis="y")
  if len(tasks) <= _MANY:
    axes[0][0].legend(fontsize="small")
  axes[0][1].margins(y=0.2)  # for the legend
  axes[0][1].legend(fontsize="small", ncols=2)
  figure.suptitle(title, fontsize="medium")
  figure.savefig(path, dpi=100)


def task_colour(task: int):
  """Returns a task's colour: the ten strong colours first, then the ten pale ones."""
  return COLOURS[2 * task % 20 + (2 * task) // 20]


def _norms(ax, noise: GradientNoise, tasks: Sequence[str]) -> None:
  """Draws a histogram for each task on one logarithmic axis."""
  norms = np.maximum(noise.norms, 1e-12)
  edges = np.geomspace(norms.min(), norms.max() * 1.0001, 40)
  for index, task in enumerate(tasks):
    colour = task_colour(index)
    ax.hist(
      norms[:, index], edges, histtype="stepfilled", alpha=0.5, color=colour, label=task
    )
  ax.set(xscale="log", xlabel="norm of a batch's gradient, shared parameters")
