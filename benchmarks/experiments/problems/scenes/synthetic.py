"""Rendered rooms in the format of NYUv2.

``python -m benchmarks.experiments.problems.scenes.synthetic`` writes them.

What stands in a room depends on (seed, split, index) only; the resolution decides how
finely it is seen.
"""

import argparse
import json
import os
import shutil
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks.experiments.problems.scenes.folder import DESCRIPTION, Scenes
from benchmarks.experiments.problems.scenes.furniture import CLASSES
from benchmarks.experiments.problems.scenes.rendering import render, sense
from benchmarks.experiments.problems.scenes.rooms import Room, furnish
from benchmarks.experiments.problems.scenes.show import write_picture

VERSION = 1  # of the renderer: a folder that another one wrote is not the same data


def room(seed: int, split: str, index: int) -> Room:
  """Makes the room of an example."""
  return furnish(np.random.default_rng([seed, zlib.crc32(split.encode()), index]))


def example(
  seed: int, split: str, index: int, height: int, width: int
) -> dict[str, np.ndarray]:
  """Makes one example, as the files of the folder hold it.

  Returns:
    ``image`` [H, W, 3] in [0, 1], ``label`` [H, W] with -1 for void, ``depth``
    [H, W, 1] in metres and ``normal`` [H, W, 3], unit vectors in camera coordinates
    (x right, y up, z towards the viewer); depth and normal are 0 where missing.
  """
  noise = np.random.default_rng([seed, zlib.crc32(split.encode()), index, 1])
  sensed = sense(render(room(seed, split, index), height, width), noise)
  return {
    "image": sensed["image"].astype(np.float32),
    "label": sensed["label"].astype(np.int8),
    "depth": sensed["depth"].astype(np.float32)[..., None],
    "normal": sensed["normal"].astype(np.float32),
  }


def write(
  directory: str | Path,
  num_train: int,
  num_val: int,
  height: int,
  width: int,
  seed: int = 0,
) -> None:
  """Writes a data set completely or not at all; one that is there already is kept.

  Args:
    directory: Gets ``train/``, ``val/`` and ``scenes.json``, which says what they are.
    num_train: Examples of the training split.
    num_val: Examples of the validation split.
    height: Pixels of an image from top to bottom.
    width: Pixels of an image from left to right.
    seed: Determines the rooms.

  Raises:
    ValueError: If the directory exists and holds anything else.
  """
  directory = Path(directory)
  description: dict[str, Any] = {
    "kind": "synthetic",
    "version": VERSION,
    "seed": seed,
    "train": num_train,
    "val": num_val,
    "height": height,
    "width": width,
    "classes": list(CLASSES),
  }
  if directory.exists():
    _require_same(directory, description)
    return
  directory.parent.mkdir(parents=True, exist_ok=True)
  partial = directory.with_name(f".{directory.name}.partial-{os.getpid()}")
  try:
    _write_splits(partial, description)
    (partial / DESCRIPTION).write_text(json.dumps(description, indent=1) + "\n")
    partial.rename(directory)
  finally:
    shutil.rmtree(partial, ignore_errors=True)


def _require_same(directory: Path, description: dict[str, Any]) -> None:
  """Raises unless the directory's description is the given one."""
  path = directory / DESCRIPTION
  found = json.loads(path.read_text()) if path.exists() else {}
  for key, value in description.items():
    if found.get(key) != value:
      raise ValueError(
        f"{directory} exists, and is not the data asked for: its {DESCRIPTION} must "
        f"have {key} = {value!r}, got {found.get(key)!r}. Remove the folder, or choose "
        "another."
      )


def _write_splits(directory: Path, description: dict[str, Any]) -> None:
  """Renders all examples into ``directory``, in parallel on the CPU's cores."""
  jobs = [(split, i) for split in ("train", "val") for i in range(description[split])]
  size = description["height"], description["width"]

  def job(split: str, index: int) -> None:
    for name, values in example(description["seed"], split, index, *size).items():
      np.save(directory / split / name / f"{index}.npy", values)

  for split in ("train", "val"):
    for name in ("image", "label", "depth", "normal"):
      (directory / split / name).mkdir(parents=True)
  with ThreadPoolExecutor(os.cpu_count()) as pool:
    done = pool.map(job, *zip(*jobs, strict=True))
    try:
      for _ in tqdm(done, "rendering", len(jobs), unit="scene", dynamic_ncols=True):
        pass
    except BaseException:
      pool.shutdown(cancel_futures=True)  # or Ctrl-C would wait for all of them
      raise


def main() -> None:
  """Runs the command line."""
  parser = argparse.ArgumentParser(
    prog="python -m benchmarks.experiments.problems.scenes.synthetic",
    description="Render rooms with labels, depth and normals, in NYUv2's format.",
    formatter_class=argparse.ArgumentDefaultsHelpFormatter,
  )
  parser.add_argument("--out", type=Path, required=True, help="folder to make")
  parser.add_argument("--train", type=_positive, default=400, help="scenes to train on")
  parser.add_argument("--val", type=_positive, default=100, help="scenes to test on")
  parser.add_argument("--height", type=_positive, default=48, help="pixels")
  parser.add_argument("--width", type=_positive, default=64, help="pixels")
  parser.add_argument("--seed", type=int, default=0, help="of the rooms, at least 0")
  parser.add_argument("--picture", type=Path, help="PNG of a few scenes, to look at")
  args = parser.parse_args()
  if args.seed < 0:
    parser.error(f"argument --seed: must be at least 0, got {args.seed}")
  try:
    write(args.out, args.train, args.val, args.height, args.width, args.seed)
  except ValueError as error:
    parser.error(str(error))
  print(f"{args.train} scenes to train on and {args.val} to test on: {args.out}")
  if args.picture:
    write_picture(Scenes(args.out, "val"), args.picture)


def _positive(text: str) -> int:
  value = int(text)
  if value < 1:
    raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
  return value


if __name__ == "__main__":
  main()
