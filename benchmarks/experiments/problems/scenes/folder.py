"""The preprocessed NYUv2 and Cityscapes of Liu et al. (2019), as their files are.

``DIR/train`` and ``DIR/val`` have a folder per quantity, with ``0.npy``, ``1.npy``...:

==========  =======================================================================
image       [H, W, 3], in [0, 1]
label       [H, W], -1 for void or 0...12; ``label_7`` in Cityscapes, -1 or 0...6
depth       [H, W, 1], 0 where missing: metres in NYUv2, *inverse* depth in Cityscapes
normal      [H, W, 3], unit vectors, (0, 0, 0) where missing; not in Cityscapes
==========  =======================================================================

NYUv2 has 795 images to train on and 654 for validation, 288 x 384; Cityscapes 2,975 and
500, 128 x 256. ``benchmarks.experiments.problems.scenes.synthetic`` writes the format
of NYUv2.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

DESCRIPTION = "scenes.json"  # what rendered data say of themselves


class Layout(NamedTuple):
  """The folders of a data set and what they hold.

  Attributes:
    name: Name of the data set.
    label: Name of the folder with the labels.
    num_classes: Labels are below it.
    inverse_depth: Whether ``depth`` is 1 / depth.
    has_normals: Whether there is a folder ``normal``.
    classes: Their names, if known.
  """

  name: str
  label: str
  num_classes: int
  inverse_depth: bool
  has_normals: bool
  classes: tuple[str, ...] = ()

  @property
  def folders(self) -> dict[str, str]:
    """The folder of each quantity."""
    folders = {"image": "image", "label": self.label, "depth": "depth"}
    return folders | ({"normal": "normal"} if self.has_normals else {})


NYUV2 = Layout("NYUv2", "label", 13, inverse_depth=False, has_normals=True)
CITYSCAPES = Layout("Cityscapes", "label_7", 7, inverse_depth=True, has_normals=False)


def find_layout(directory: str | Path) -> Layout:
  """Finds out which data set a folder holds, by the folders in it.

  Raises:
    ValueError: If it holds none, with what was looked for.
  """
  directory = Path(directory)
  description = directory / DESCRIPTION
  if description.exists():
    classes = tuple(json.loads(description.read_text())["classes"])
    return NYUV2._replace(name="synthetic", num_classes=len(classes), classes=classes)
  for layout in (CITYSCAPES, NYUV2):
    if (directory / "train" / layout.label).is_dir():
      return layout
  raise ValueError(
    f"{directory / 'train'} must have a folder `label` (NYUv2) or `label_7` "
    f"(Cityscapes), got {_listing(directory / 'train')}. Give the folder that holds "
    "`train` and `val`, or render data without any download: "
    "`python -m benchmarks.experiments.problems.scenes.synthetic`."
  )


def _listing(directory: Path) -> str:
  """Describes the content of a folder."""
  if not directory.is_dir():
    return "no such folder"
  names = sorted(path.name for path in directory.iterdir())
  return ", ".join(f"`{name}`" for name in names[:8]) or "an empty folder"


class Scenes:
  """The examples of one split, by number: a random-access data source.

  Element i is a dictionary of ``image`` [H, W, 3] in [0, 1], ``label`` [H, W] with -1
  for void, ``depth`` [H, W] with 0 where missing (inverse depth if
  ``layout.inverse_depth``) and, if ``layout.has_normals``, ``normal`` [H, W, 3] with
  (0, 0, 0) where missing. Labels are int32, all else float32.
  """

  def __init__(
    self,
    directory: str | Path,
    split: str,
    indices: Sequence[int] | np.ndarray | None = None,
    in_memory: bool = False,
  ):
    """Opens a split that ``checking.check`` found to be in order.

    Args:
      directory: The folder that holds ``train`` and ``val``.
      split: ``"train"`` or ``"val"``.
      indices: The files to use, in this order. Default: all.
      in_memory: Whether to read all of them now, and none later.
    """
    self.layout = find_layout(directory)
    self.root = Path(directory) / split
    if indices is None:
      indices = range(len(list((self.root / "image").glob("*.npy"))))
    self._indices = [int(i) for i in indices]
    self._examples = [self._read(i) for i in self._indices] if in_memory else None

  def __len__(self) -> int:
    return len(self._indices)

  def __getitem__(self, number) -> dict[str, np.ndarray]:
    if self._examples is not None:
      return dict(self._examples[number])
    return self._read(self._indices[number])

  def _read(self, index: int) -> dict[str, np.ndarray]:
    values = {
      name: np.load(self.root / folder / f"{index}.npy")
      for name, folder in self.layout.folders.items()
    }
    values["depth"] = values["depth"][..., 0]
    example = {
      name: np.ascontiguousarray(value, np.int32 if name == "label" else np.float32)
      for name, value in values.items()
    }
    # Rounding may have taken intensities a little out of their range.
    example["image"] = example["image"].clip(0, 1)
    return example
