"""Fashion-MNIST from a file, and canvases of two images."""

import functools
import itertools
from pathlib import Path
from typing import NamedTuple

import grain
import numpy as np

from benchmarks.experiments.loading import read_npz
from benchmarks.experiments.problem import Batch
from benchmarks.experiments.problems import pairs

SHIFT = 8  # pixels by which the right image is moved right and down
SIDE = 28 + SHIFT
_ARRAYS = {"x_train": 3, "y_train": 1, "x_test": 3, "y_test": 1}


class Images(NamedTuple):
  """N images [N, 28, 28], uint8, and their classes [N] in 0..9."""

  image: np.ndarray
  label: np.ndarray


def load(path: Path) -> tuple[Images, Images]:
  """Loads the images to train on and to test on.

  Args:
    path: ``.npz`` file with ``x_train`` and ``x_test``, [N, 28, 28] uint8, and
      ``y_train`` and ``y_test``, [N].

  Raises:
    ValueError: if the file is not such a file.
  """
  arrays = read_npz(path, _ARRAYS, "Fashion-MNIST")
  for name, ndim in _ARRAYS.items():
    shape = arrays[name].shape
    if len(shape) != ndim or shape[1:] not in ((), (28, 28)):
      raise ValueError(f"{path}: {name} must be [N, 28, 28] or [N], got {shape}")
  for part in ("train", "test"):
    images, labels = arrays[f"x_{part}"], arrays[f"y_{part}"]
    if images.dtype != np.uint8 or len(images) != len(labels) or not len(images):
      raise ValueError(
        f"{path}: x_{part} must be uint8 with one label per image, got "
        f"{images.dtype} {images.shape} and {len(labels)} labels"
      )
    if labels.min() < 0 or labels.max() > 9:
      raise ValueError(
        f"{path}: y_{part} must be in 0..9, got {labels.min()} to {labels.max()}"
      )
  return (
    Images(arrays["x_train"], arrays["y_train"].astype(np.int32)),
    Images(arrays["x_test"], arrays["y_test"].astype(np.int32)),
  )


def canvases(images: Images, left: np.ndarray, right: np.ndarray, pool: int) -> Batch:
  """Draws pairs of images, the brighter pixel on top.

  Args:
    images: The images to choose from.
    left: [N]. Indices of the images in the upper left corner.
    right: [N]. Indices of the images in the lower right corner.
    pool: Side of the squares of pixels that are averaged; it must divide 36.

  Returns:
    ``canvas`` [N, (36 / pool)²] in [0, 1]; ``left`` and ``right``, classes [N];
    ``ink`` [N], the mean brightness of the two images, what is hidden included.
  """
  upper, lower = images.image[left], images.image[right]
  whole = np.zeros((len(left), SIDE, SIDE), np.uint8)
  whole[:, :28, :28] = upper
  np.maximum(whole[:, SHIFT:, SHIFT:], lower, out=whole[:, SHIFT:, SHIFT:])
  # Sums of whole arrays take a quarter of the time of a mean over two axes.
  offsets = itertools.product(range(pool), repeat=2)
  first, *others = (whole[:, row::pool, column::pool] for row, column in offsets)
  total = sum(others, start=first.astype(np.uint32))
  canvas = total.astype(np.float32) / pool**2 / 255
  ink = (_brightness(upper) + _brightness(lower)) / (2 * 255)
  return {
    "canvas": canvas.reshape(len(left), -1),
    "left": images.label[left],
    "right": images.label[right],
    "ink": ink.astype(np.float32),
  }


def _brightness(images: np.ndarray) -> np.ndarray:
  """Computes the mean of each image, [N]."""
  pixels = images.reshape(len(images), -1)
  return pixels.sum(1, dtype=np.uint32) / pixels.shape[1]


def random_pairs(
  images: Images, pool: int, batch_size: int, seed: int
) -> grain.MapDataset:
  """Makes endless batches of new pairs."""
  draw = functools.partial(canvases, images, pool=pool)
  return pairs.random_pairs(draw, len(images.label), batch_size, seed)


def fixed_pairs(images: Images, pool: int, number: int) -> Batch:
  """Draws ``number`` pairs, the same ones each time."""
  draw = functools.partial(canvases, images, pool=pool)
  return pairs.fixed_pairs(draw, len(images.label), number)
