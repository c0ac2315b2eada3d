"""Four unlike tasks on two overlapping images: their losses, metrics and batches.

Name the left image's class, name the right one's, estimate the ink of both, and redraw
the canvas. A batch holds N canvases: ``canvas`` [N, P], intensities in [0, 1]; ``left``
and ``right`` [N], classes in 0..9; ``ink`` [N], the mean intensity of the two images,
what the overlap hides included.
"""

import sys
from collections.abc import Callable
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from benchmarks.experiments.metric import Metric
from benchmarks.experiments.mlp import MLP
from benchmarks.experiments.problem import Batch

TASKS = ("canvas", "ink", "left", "right")
METRICS = (
  Metric("canvas", "canvas", "RMSE", -1, 4),
  Metric("ink", "ink", "RMSE", -1, 4),
  Metric("left", "left", "accuracy", 1, 1),
  Metric("right", "right", "accuracy", 1, 1),
)


def make_network(pixels: int, hidden: int, rngs: nnx.Rngs) -> MLP:
  """Makes a trunk that all tasks share, and one linear head per task."""
  return MLP(
    pixels, hidden, {"canvas": pixels, "ink": 1, "left": 10, "right": 10}, rngs
  )


def losses(outputs: dict[str, jax.Array], batch: Batch) -> dict[str, jax.Array]:
  """Computes the loss of each task: cross-entropy, or mean squared error."""
  cross_entropy = optax.softmax_cross_entropy_with_integer_labels
  return {
    "canvas": jnp.mean((outputs["canvas"] - batch["canvas"]) ** 2),
    "ink": jnp.mean((outputs["ink"][:, 0] - batch["ink"]) ** 2),
    "left": cross_entropy(outputs["left"], batch["left"]).mean(),
    "right": cross_entropy(outputs["right"], batch["right"]).mean(),
  }


def kpis(outputs: dict[str, jax.Array], batch: Batch) -> dict[str, jax.Array]:
  """Computes how well each task does, in [0, 1]: accuracy, or R² of a regression."""

  def explained(output, target):
    error = jnp.mean((output - target) ** 2)
    return jnp.clip(1 - error / jnp.mean(jnp.var(target, axis=0)), 0, 1)

  return {
    "canvas": explained(outputs["canvas"], batch["canvas"]),
    "ink": explained(outputs["ink"][:, 0], batch["ink"]),
    "left": jnp.mean(outputs["left"].argmax(1) == batch["left"]),
    "right": jnp.mean(outputs["right"].argmax(1) == batch["right"]),
  }


def sums(outputs: dict[str, jax.Array], batch: Batch) -> dict[str, jax.Array]:
  """Computes squared errors and hits of a batch, to add up."""
  return {
    "canvas": jnp.sum(jnp.mean((outputs["canvas"] - batch["canvas"]) ** 2, axis=1)),
    "ink": jnp.sum((outputs["ink"][:, 0] - batch["ink"]) ** 2),
    "left": jnp.sum(outputs["left"].argmax(1) == batch["left"]),
    "right": jnp.sum(outputs["right"].argmax(1) == batch["right"]),
    "number": jnp.array(len(batch["ink"])),
  }


def summarise(total: dict[str, np.ndarray]) -> dict[str, float]:
  """Computes the metrics: root mean squared errors, and accuracies in percent."""
  mean = {task: float(total[task] / total["number"]) for task in TASKS}
  return {
    "canvas": mean["canvas"] ** 0.5,
    "ink": mean["ink"] ** 0.5,
    "left": 100 * mean["left"],
    "right": 100 * mean["right"],
  }


# From the indices of left and right images, [N] each, to a batch of N canvases.
Draw = Callable[[np.ndarray, np.ndarray], Batch]


class _RandomPairs:
  """A source for grain: element t holds the pairs of step t."""

  def __init__(self, draw: Draw, images: int, batch_size: int, seed: int):
    self._draw, self._images = draw, images
    self._batch_size, self._seed = batch_size, seed

  def __len__(self) -> int:
    return sys.maxsize

  def __getitem__(self, step: Any) -> Batch:
    random = np.random.default_rng((self._seed, int(step)))
    return self._draw(*random.integers(self._images, size=(2, self._batch_size)))


def random_pairs(
  draw: Draw, images: int, batch_size: int, seed: int
) -> grain.MapDataset:
  """Makes endless batches of new pairs of so many images."""
  return grain.MapDataset.source(_RandomPairs(draw, images, batch_size, seed))


def fixed_pairs(draw: Draw, images: int, number: int) -> Batch:
  """Draws ``number`` pairs of so many images, the same ones each time."""
  return draw(*np.random.default_rng(0).integers(images, size=(2, number)))
