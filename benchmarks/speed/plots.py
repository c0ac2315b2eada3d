"""Draws the time of a step as the problem grows, and of whole train steps."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks.speed.report import STEPS


def growth(summary: dict, path: Path) -> None:
  """Draws time against D at K = 3 and against K at D = 10⁶, beside that of a copy."""
  figure = Figure(figsize=(9, 3.6), layout="constrained")
  entries = summary["growth"]
  panels = {
    "parameters": [e for e in entries if e["parameters"] != 10**6 or e["tasks"] == 3],
    "tasks": [e for e in entries if e["parameters"] == 10**6],
  }
  floor = {"color": "black", "ls": "--", "label": "copy of the bytes it needs"}
  styles: dict[str, dict] = {
    "maxgnr": {"color": "tab:red", "marker": "o", "label": "MaxGNR"},
    "naive": {"color": "tab:blue", "marker": "s", "label": "written down naively"},
    "torch copy": floor,
    "copy": floor,
  }
  for index, (axis, shown) in enumerate(panels.items()):
    ax = figure.add_subplot(1, 2, index + 1)
    shown = sorted(shown, key=lambda entry: entry[axis])
    for name, style in styles.items():
      found = [(e[axis], e["runs"][name]) for e in shown if name in e["runs"]]
      if found:
        x = [value for value, _ in found]
        ax.plot(x, [run["median_ms"] for _, run in found], ms=4, **style)
        low, high = zip(*(run["quartiles_ms"] for _, run in found), strict=True)
        ax.fill_between(x, low, high, color=style["color"], alpha=0.2, lw=0)
    other = "K = 3" if axis == "parameters" else "D = 10⁶"
    ax.set(xscale="log", yscale="log", title=other, ylabel="ms per step")
    ax.set_xlabel("parameters D" if axis == "parameters" else "tasks K")
    ax.grid(alpha=0.3)
  figure.axes[0].legend(fontsize="small")
  figure.savefig(path, dpi=110)


def steps(summary: dict, path: Path) -> None:
  """Draws whole train steps, a panel per batch size and a group of bars per model."""
  entries = summary["steps"]
  batch_sizes = sorted({entry["batch_size"] for entry in entries})
  figure = Figure(figsize=(1 + 4 * len(batch_sizes), 3.6), layout="constrained")
  colours = ("tab:gray", "tab:blue", "tab:red")
  for index, batch_size in enumerate(batch_sizes):
    ax = figure.add_subplot(1, len(batch_sizes), index + 1)
    shown = [entry for entry in entries if entry["batch_size"] == batch_size]
    for bar, (name, label) in enumerate(STEPS.items()):
      runs = [entry["runs"][name] for entry in shown]
      heights = [run["median_ms"] for run in runs]
      low, high = zip(*(run["quartiles_ms"] for run in runs), strict=True)
      errors = [np.subtract(heights, low), np.subtract(high, heights)]
      x = np.arange(len(runs)) + 0.27 * (bar - 1)
      ax.bar(x, heights, 0.25, yerr=errors, capsize=2, color=colours[bar], label=label)
    ax.set_xticks(range(len(shown)), [entry["model"] for entry in shown])
    ax.set(title=f"batches of {batch_size}", ylabel="ms per train step")
    ax.grid(alpha=0.3, axis="y")
    ax.set_axisbelow(True)
  figure.axes[0].legend(fontsize="small")
  figure.savefig(path, dpi=110)
