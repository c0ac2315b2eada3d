"""Draws some examples: the inputs of a network and its targets."""

from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from benchmarks.experiments.problems.scenes.folder import Scenes

VOID = "black"  # the colour of what has no label, no depth or no normal


def write_picture(scenes: Scenes, path: Path, number: int = 6) -> None:
  """Writes a PNG with image, labels, depth and normals of the first examples."""
  layout = scenes.layout
  columns = len(layout.folders)
  examples = [scenes[i] for i in range(min(number, len(scenes)))]
  height, width = examples[0]["label"].shape
  figure = Figure(
    figsize=(2 * columns, 0.6 + 2 * len(examples) * height / width),
    layout="constrained",
  )
  axes = figure.subplots(len(examples), columns, squeeze=False)
  names = layout.classes or tuple(str(i) for i in range(layout.num_classes))
  colours = [mpl.colormaps["tab20"](i) for i in range(len(names))]
  for row, example in zip(axes, examples, strict=True):
    for ax, (name, value) in zip(row, example.items(), strict=True):
      options: dict = {}
      if name == "label":
        value = np.ma.masked_less(value, 0)
        options = {"cmap": ListedColormap(colours), "vmin": 0, "vmax": len(names) - 1}
      elif name == "depth":
        value = np.ma.masked_equal(value, 0)
        options = {"cmap": "viridis"}
      elif name == "normal":
        missing = (value == 0).all(-1, keepdims=True)
        value = np.where(missing, 0, (value.clip(-1, 1) + 1) / 2)
      ax.imshow(value, interpolation="nearest", **options)
      ax.set(xticks=[], yticks=[], facecolor=VOID)
  depth = "inverse depth" if layout.inverse_depth else "depth"
  for ax, name in zip(axes[0], layout.folders, strict=True):
    ax.set_title(depth if name == "depth" else name)
  patches = [Patch(color=c, label=n) for c, n in zip(colours, names, strict=True)]
  patches.append(Patch(color=VOID, label="void or missing"))
  figure.legend(handles=patches, loc="outside lower center", ncols=6, fontsize="small")
  path.parent.mkdir(parents=True, exist_ok=True)
  figure.savefig(path, dpi=80)
