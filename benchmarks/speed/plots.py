"""Draws the time of a step as the problem grows."""

from pathlib import Path

from matplotlib.figure import Figure


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
