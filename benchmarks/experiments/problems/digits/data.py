"""Canvases of two overlapping handwritten digits, made on the device."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits

OVERLAP = 5  # columns that the two 8x8 digits share
WIDTH = 16 - OVERLAP
PIXELS = 8 * WIDTH
HELD_OUT = 2_000  # canvases each for validation and test


class Batch(NamedTuple):
  """N canvases and what is to be learnt of them.

  Attributes:
    canvas: [N, PIXELS], intensities in [0, 1]. Input, and target of the task "canvas".
    left: [N], int. Class of the left digit.
    right: [N], int. Class of the right digit.
    ink: [N]. Mean intensity of the two digits, what the overlap hides included.
  """

  canvas: jax.Array
  left: jax.Array
  right: jax.Array
  ink: jax.Array


class Digits(NamedTuple):
  """Single digits: images [N, 8, 8] in [0, 1] and classes [N]."""

  image: jax.Array
  label: jax.Array


def split() -> tuple[Digits, Digits, Digits]:
  """scikit-learn's 1,797 digits: 60 % to train, 20 % to validate, 20 % to test on."""
  data = load_digits()
  image = (data.images / data.images.max()).astype(np.float32)
  order = np.random.default_rng(0).permutation(len(image))
  parts = np.split(order, [int(0.6 * len(order)), int(0.8 * len(order))])
  train, validation, test = (
    Digits(jnp.asarray(image[part]), jnp.asarray(data.target[part])) for part in parts
  )
  return train, validation, test


def load() -> tuple[Digits, Batch, Batch]:
  """Digits to train on, and fixed canvases of other digits to validate and test on."""
  train, validation, test = split()
  return (
    train,
    sample(jax.random.key(1), validation, HELD_OUT),
    sample(jax.random.key(2), test, HELD_OUT),
  )


def sample(key: jax.Array, digits: Digits, size: int) -> Batch:
  """``size`` canvases of random pairs of ``digits``."""
  left, right = jax.random.randint(key, (2, size), 0, len(digits.label))
  margin = 8 - OVERLAP
  canvas = jnp.maximum(
    jnp.pad(digits.image[left], ((0, 0), (0, 0), (0, margin))),
    jnp.pad(digits.image[right], ((0, 0), (0, 0), (margin, 0))),
  )
  ink = digits.image[left].mean((1, 2)) + digits.image[right].mean((1, 2))
  return Batch(
    canvas=canvas.reshape(size, PIXELS),
    left=digits.label[left],
    right=digits.label[right],
    ink=ink / 2,
  )
