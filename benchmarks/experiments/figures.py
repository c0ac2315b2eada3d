"""The paper's figures 1, 4 and 5, and one of Δm."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from benchmarks.experiments.noise import GradientNoise
from benchmarks.experiments.summary import JUDGED

COLOURS = mpl.color_sequences["tab20"]
_MANY = 6  # tasks: then a legend has no room


def delta_m(summary: dict[str, Any], judged: str, path: Path) -> None:
  """One row per method, the best on top: every seed, and their mean."""
  values = {name: row["delta_m"][judged] for name, row in summary["rows"].items()}
  names = sorted(
    values, key=lambda name: np.nan_to_num(np.mean(values[name]), nan=-1e9)
  )
  figure = Figure(figsize=(7, 1.2 + 0.22 * len(names)), layout="constrained")
  ax = figure.add_subplot()
  for row, name in enumerate(names):
    colour = "tab:red" if name.startswith("maxgnr") else "tab:blue"
    colour = "black" if name == "single-task" else colour
    ax.plot(values[name], [row] * len(values[name]), ".", color=colour, alpha=0.5)
    ax.plot(np.mean(values[name]), row, "|", color=colour, ms=12, mew=2)
  ax.axvline(0, color="black", ls="--", lw=1)
  if min(map(min, values.values())) < -100:  # one far behind would press the others
    ax.set_xscale("symlog", linthresh=20)
  ax.set(yticks=range(len(names)), yticklabels=names, ylim=(-1, len(names)))
  ax.set_xlabel("Δm % against single-task models, test (dots: seeds; bar: mean)")
  ax.set_title(f"{summary['problem']}\n{JUDGED[judged]}", fontsize="medium")
  ax.grid(alpha=0.3)
  figure.savefig(path, dpi=110)


def gradient_norms(noise: GradientNoise, tasks: Sequence[str], title: str, path: Path):
  """Figure 1: how the norms of the batches' gradients are distributed."""
  figure = Figure(figsize=(6.5, 3.6), layout="constrained")
  ax = figure.add_subplot()
  _norms(ax, noise, tasks)
  ax.set(title=title, ylabel="batches")
  if len(tasks) <= _MANY:
    ax.legend()
  figure.savefig(path, dpi=110)


def weights(
  histories: Mapping[str, Sequence[list[dict]]],
  tasks: Sequence[str],
  title: str,
  path: Path,
) -> None:
  """Figure 4: each task's weight over training; methods beside each other.

  Args:
    histories: Method -> histories of its seeds.
    tasks: Sorted names.
    title: Of the figure.
    path: PNG to write.
  """
  figure = Figure(figsize=(1 + 3.6 * len(histories), 3.6), layout="constrained")
  axes = figure.subplots(1, len(histories), sharey=True, squeeze=False)[0]
  for ax, (method, seeds) in zip(axes, histories.items(), strict=True):
    epochs = [row["epoch"] for row in seeds[0]]
    for index, task in enumerate(tasks):
      values = np.array([[row["weight"][task] for row in rows] for rows in seeds])
      colour = _colour(index)
      ax.plot(epochs, values.mean(0), color=colour, label=task)
      ax.fill_between(
        epochs, values.min(0), values.max(0), color=colour, alpha=0.2, lw=0
      )
    ax.set(title=method, xlabel="epoch", ylim=(0, 1))
    ax.grid(alpha=0.3)
  axes[0].set_ylabel("task weight, mean of the epoch")
  if len(tasks) <= _MANY:
    axes[-1].legend()
  figure.suptitle(title, fontsize="medium")
  figure.savefig(path, dpi=110)


def norms_and_gnr(
  models: Mapping[str, tuple[GradientNoise, np.ndarray]],
  tasks: Sequence[str],
  title: str,
  path: Path,
) -> None:
  """Figure 5: the norms' distributions, and GNR_S beside GNR_M of each task.

  Args:
    models: Method -> what was measured of its best model, and its weights [K].
    tasks: Sorted names.
    title: Of the figure.
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
    right.bar(at - 0.2, noise.single_task_gnr(), 0.4, label="GNR$_S$, own noise only")
    right.bar(at + 0.2, noise.task_gnr(weights), 0.4, label="GNR$_M$, noise of all")
    right.set(title=f"{method}: gradient-to-noise ratio", yscale="log")
    right.set_xticks(at, tasks, rotation=0 if len(tasks) <= _MANY else 60)
    right.grid(alpha=0.3, axis="y")
  if len(tasks) <= _MANY:
    axes[0][0].legend(fontsize="small")
  axes[0][1].margins(y=0.2)  # for the legend
  axes[0][1].legend(fontsize="small", ncols=2)
  figure.suptitle(title, fontsize="medium")
  figure.savefig(path, dpi=100)


def _colour(task: int):
  """Of a task: the ten strong colours first, then the ten pale ones."""
  return COLOURS[2 * task % 20 + (2 * task) // 20]


def _norms(ax, noise: GradientNoise, tasks: Sequence[str]) -> None:
  """Histograms on one logarithmic axis."""
  norms = np.maximum(noise.norms, 1e-12)
  edges = np.geomspace(norms.min(), norms.max() * 1.0001, 40)
  for index, task in enumerate(tasks):
    colour = _colour(index)
    ax.hist(
      norms[:, index], edges, histtype="stepfilled", alpha=0.5, color=colour, label=task
    )
  ax.set(xscale="log", xlabel="norm of a batch's gradient, shared parameters")
