"""Plots the gap to the optimum against the steps, and the time against K."""

from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from benchmarks.accuracy.solvers.steps import TIMED

# Smaller gaps are rounding errors of float32, and their sign is arbitrary.
FLOOR = 1e-7
PANELS = {"worst": "worst problem", "one_percent": "1 % quantile"}


def steps(summary: dict, path: Path) -> None:
  """Writes the figure of three panels."""
  figure = Figure(figsize=(12, 3.8), layout="constrained")
  measured = summary["steps"]
  entries = measured["fraction_of_optimum"]
  tasks = sorted({entry["tasks"] for entry in entries})
  colours = mpl.colormaps["viridis"](np.linspace(0, 0.95, len(tasks)))

  for column, (name, title) in enumerate(PANELS.items()):
    ax = figure.add_subplot(1, 3, 1 + column)
    for num_tasks, colour in zip(tasks, colours, strict=True):
      shown = [entry for entry in entries if entry["tasks"] == num_tasks]
      loss = [max(1 - entry[name], FLOOR) for entry in shown]
      x = [entry["steps"] for entry in shown]
      ax.plot(x, loss, "o-", ms=3, color=colour, label=f"K = {num_tasks}")
    ax.axhline(1 - measured["criterion"][name], color="black", ls="--", lw=1)
    ax.axvline(measured["default"], color="black", ls=":", lw=1)
    ax.set(xscale="log", yscale="log", ylim=(FLOOR / 1.5, 1.5), title=title)
    ax.set(xlabel="steps", ylabel="1 - share of the optimum, at least 10⁻⁷")
    counts = sorted({entry["steps"] for entry in entries})
    ax.set_xticks(counts, map(str, counts))
    ax.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
    ax.grid(alpha=0.3)
  handles, labels = figure.axes[0].get_legend_handles_labels()
  figure.legend(handles, labels, loc="outside right center", fontsize="small")

  ax = figure.add_subplot(1, 3, 3)
  for solver, colour in zip(TIMED, ("tab:red", "tab:blue"), strict=True):
    times = [entry for entry in measured["times"] if entry["solver"] == solver]
    median = [entry["median"] for entry in times]
    ax.plot(tasks, median, "o-", ms=3, color=colour, label=solver)
    low, high = zip(*(entry["quartiles"] for entry in times), strict=True)
    ax.fill_between(tasks, low, high, color=colour, alpha=0.2, lw=0)
  ax.legend(fontsize="small")
  ax.set(xscale="log", yscale="log", title="a call")
  ax.set(xlabel="tasks K", ylabel="µs, median and quartiles")
  ax.set_xticks(tasks, map(str, tasks))
  ax.minorticks_off()
  ax.grid(alpha=0.3)
  figure.savefig(path, dpi=110)
