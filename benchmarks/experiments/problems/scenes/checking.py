"""Checks a data set before training begins."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from benchmarks.experiments.problems.scenes.folder import Layout, find_layout

ROUNDING = 1e-3  # by which intensities may be out of [0, 1]
LENGTH_TOLERANCE = 0.1  # by which a normal's length may differ from 1
CHANNELS = {"image": 3, "label": None, "depth": 1, "normal": 3}
REPEAT = "Download or preprocess the data again."


class Size(NamedTuple):
  """The number of images of a split, and their height and width in pixels."""

  number: int
  height: int
  width: int


def check(directory: str | Path, split: str, contents: bool = True) -> Size:
  """Checks that every file of a split can be trained on.

  Args:
    directory: The folder that holds ``train`` and ``val``.
    split: ``"train"`` or ``"val"``.
    contents: Whether to read all values, with a progress bar, which takes as long as
      an epoch of loading. Otherwise only folders,
      numbering, shapes, types and sizes of the files.

  Returns:
    The number of images, and their size.

  Raises:
    ValueError: Names the first file that is wrong, what it must be and what it is.
  """
  layout = find_layout(directory)
  root = Path(directory) / split
  number = _count(root, layout)
  files = [
    (name, root / folder / f"{index}.npy")
    for name, folder in layout.folders.items()
    for index in range(number)
  ]
  size = None
  for name, path in files:
    values = _open(path)
    shape = _require_shape(values, name, path)
    if size is None:
      size = shape
    elif shape != size:
      raise _error(
        path, f"have the height and width of {files[0][1]}, {size}", shape, REPEAT
      )
  if contents:
    for name, path in tqdm(files, f"checking {root}", unit="file", dynamic_ncols=True):
      _require_contents(np.load(path), name, path, layout)
  assert size is not None
  return Size(number, *size)


def _error(path: Path, must: str, got: object, remedy: str) -> ValueError:
  return ValueError(f"{path} must {must}, got {got}. {remedy}")


def _count(root: Path, layout: Layout) -> int:
  """Counts the images: files 0.npy, 1.npy, ... in every folder."""
  counts = {}
  for folder in layout.folders.values():
    path = root / folder
    if not path.is_dir():
      remedy = f"{layout.name} needs {', '.join(layout.folders.values())} in {root}."
      raise _error(path, "be a folder", "none", remedy)
    names = {file.stem for file in path.glob("*.npy")}
    counts[folder] = len(names)
    if not names:
      raise _error(path, "hold 0.npy, 1.npy, ...", "no such file", REPEAT)
    absent = [i for i in range(len(names)) if str(i) not in names]
    if absent:
      raise _error(
        path,
        f"hold {len(names)} files numbered 0 to {len(names) - 1} without gaps",
        f"none named {absent[0]}.npy",
        "Copy what is missing, and remove other .npy files.",
      )
  if len(set(counts.values())) > 1:
    raise _error(
      root,
      "have as many files in every folder",
      ", ".join(f"{count} in `{folder}`" for folder, count in counts.items()),
      "Copy what is missing.",
    )
  return counts["image"]


def _open(path: Path) -> np.ndarray:
  """Opens the array of a file; the file must be as long as its header says."""
  try:
    values = np.load(path, mmap_mode="r")
    if not isinstance(values, np.ndarray):  # an archive of several arrays
      raise ValueError(type(values).__name__)
    return values
  except (ValueError, OSError, EOFError) as error:
    raise _error(
      path, "be a whole .npy file of numbers", f"`{error}`", REPEAT
    ) from error


def _require_shape(values: np.ndarray, name: str, path: Path) -> tuple[int, int]:
  """Checks an array's shape, and returns height and width."""
  channels = CHANNELS[name]
  expected = "[H, W]" if channels is None else f"[H, W, {channels}]"
  fits = values.ndim == 2 if channels is None else values.shape[2:] == (channels,)
  if not fits or values.size == 0:
    raise _error(path, f"have the shape {expected}", list(values.shape), REPEAT)
  kinds = "iuf" if name == "label" else "f"
  if values.dtype.kind not in kinds:
    must = "hold whole numbers" if name == "label" else "hold floats"
    raise _error(path, must, values.dtype, "Convert the file.")
  return values.shape[0], values.shape[1]


def _require_contents(
  values: np.ndarray, name: str, path: Path, layout: Layout
) -> None:
  """Raises unless all values are in their range."""
  if not np.isfinite(values).all():
    count = np.count_nonzero(~np.isfinite(values))
    must = "be finite, with 0 where a value is missing"
    raise _error(path, must, f"{count} NaN or infinite values", "Replace them.")
  _REQUIREMENTS[name](values, path, layout)


def _require_image(values: np.ndarray, path: Path, layout: Layout) -> None:
  low, high = values.min(), values.max()
  if low < -ROUNDING or high > 1 + ROUNDING:
    got = f"values from {low:g} to {high:g}"
    raise _error(path, "be in [0, 1]", got, "Divide bytes by 255.")


def _require_label(values: np.ndarray, path: Path, layout: Layout) -> None:
  last = layout.num_classes - 1
  wrong = values[(values != np.floor(values)) | (values < -1) | (values > last)]
  if wrong.size:
    must = f"hold labels 0 to {last} of {layout.name}, or -1 for void"
    raise _error(path, must, f"{wrong[0]:g}", "Map the labels to these.")


def _require_depth(values: np.ndarray, path: Path, layout: Layout) -> None:
  if values.min() < 0:
    must = "be positive, or 0 where missing"
    raise _error(path, must, f"{values.min():g}", "Set what is missing to 0.")


def _require_normal(values: np.ndarray, path: Path, layout: Layout) -> None:
  length = np.linalg.norm(values.astype(np.float64), axis=-1)
  wrong = length[(length != 0) & (np.abs(length - 1) > LENGTH_TOLERANCE)]
  if wrong.size:
    must = "hold vectors of length 1, or 0 where missing"
    raise _error(path, must, f"a length of {wrong[0]:.3g}", "Divide by the length.")


_REQUIREMENTS: dict[str, Callable[[np.ndarray, Path, Layout], None]] = {
  "image": _require_image,
  "label": _require_label,
  "depth": _require_depth,
  "normal": _require_normal,
}
