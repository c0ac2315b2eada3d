"""Canvases of two overlapping handwritten digits."""

from typing import NamedTuple

import numpy as np
from sklearn.datasets import load_digits

from benchmarks.experiments.loading import hold_out
from benchmarks.experiments.problem import Batch

OVERLAP = 5  # columns that the two 8x8 digits share
WIDTH = 16 - OVERLAP
PIXELS = 8 * WIDTH
_TEST_SHARE = 0.2


class Digits(NamedTuple):
  """N single digits.

  Attributes:
    image: [N, 8, 8], float32, intensities in [0, 1].
    label: [N], int32, classes in 0..9.
  """

  image: np.ndarray
  label: np.ndarray


def split(validation: float) -> dict[str, Digits]:
  """Divides scikit-learn's 1,797 digits, of which a fifth is the test set.

  Args:
    validation: Share of the others that is held out for validation, in [0, 1).

  Returns:
    ``"train"``, ``"validation"`` and ``"test"``; no digit is in two of them.
  """
  data = load_digits()
  image = (data.images / data.images.max()).astype(np.float32)
  label = data.target.astype(np.int32)
  others, test = hold_out(len(label), _TEST_SHARE, seed=0)
  kept, held_out = hold_out(len(others), validation, seed=1)
  parts = {"train": others[kept], "validation": others[held_out], "test": test}
  return {name: Digits(image[rows], label[rows]) for name, rows in parts.items()}


def canvases(digits: Digits, left: np.ndarray, right: np.ndarray) -> Batch:
  """Draws pairs of digits, the brighter pixel on top.

  Args:
    digits: The digits to choose from.
    left: [N], indices of the digits on the left.
    right: [N], indices of the digits on the right.

  Returns:
    The arrays that :mod:`benchmarks.experiments.problems.pairs` lists, canvases of
    ``PIXELS`` pixels.
  """
  left_image, right_image = digits.image[left], digits.image[right]
  canvas = np.zeros((len(left), 8, WIDTH), np.float32)
  canvas[:, :, :8] = left_image
  np.maximum(canvas[:, :, -8:], right_image, out=canvas[:, :, -8:])
  return {
    "canvas": canvas.reshape(len(left), PIXELS),
    "left": digits.label[left],
    "right": digits.label[right],
    "ink": (left_image.mean((1, 2)) + right_image.mean((1, 2))) / 2,
  }
