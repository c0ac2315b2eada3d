"""The network, its four tasks and their metrics."""

import dataclasses
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.experiments.config import Settings
from benchmarks.experiments.loading import hold_out, in_order
from benchmarks.experiments.metric import Metric
from benchmarks.experiments.mlp import MLP, trunk_only
from benchmarks.experiments.problem import Batch, Problem
from benchmarks.experiments.problems.digits import data as digits
from benchmarks.experiments.problems.digits import model
from benchmarks.experiments.problems.fashion.data import (
  SIDE,
  Images,
  fixed_pairs,
  load,
  random_pairs,
)

TASKS = ("canvas", "ink", "left", "right")
METRICS = (
  Metric("canvas", "canvas", "RMSE", -1, 4),
  Metric("ink", "ink", "RMSE", -1, 4),
  Metric("left", "left", "accuracy", 1, 1),
  Metric("right", "right", "accuracy", 1, 1),
)
_EVALUATED_AT_ONCE = 1_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class FashionSettings(Settings):
  """Of the pairs and the network."""

  batch_size: int = 128
  """Pairs per step."""
  epochs: int = 30
  """Parts of the training; each ends with an evaluation."""
  pairs_per_epoch: int = 6_400
  """Random pairs that an epoch is made of."""
  evaluated_pairs: int = 4_000
  """Fixed pairs each to validate and to test on."""
  pool: int = 2
  """Side of the squares of pixels that are averaged, a divisor of 36."""
  hidden: int = 128
  """Width of the two hidden layers."""

  def __post_init__(self) -> None:
    """Finds what is out of range before anything is loaded."""
    super().__post_init__()
    if self.pool < 1 or SIDE % self.pool:
      raise ValueError(f"pool must be a divisor of {SIDE}, got {self.pool}")


def make_problem(settings: FashionSettings) -> Problem:
  """Pairs of the images in the file ``settings.data``."""
  images, test = load(settings.data)
  kept, validation = hold_out(len(images.label), settings.validation, seed=0)
  parts = {
    "train": _only(images, kept),
    "validation": _only(images, validation),
    "test": test,
  }
  pixels = (SIDE // settings.pool) ** 2

  def make_model(rngs):
    heads = {"canvas": pixels, "ink": 1, "left": 10, "right": 10}
    return MLP(pixels, settings.hidden, heads, rngs)

  evaluated = {
    split: fixed_pairs(part, settings.pool, settings.evaluated_pairs)
    for split, part in parts.items()
    if len(part.label)
  }

  def evaluation_batches(split: str) -> Iterator[Batch]:
    if split not in evaluated:
      return iter(())
    return in_order(evaluated[split], _EVALUATED_AT_ONCE)

  return Problem(
    title=f"pairs of Fashion-MNIST, {SIDE // settings.pool}² pixels",
    tasks=TASKS,
    metrics=METRICS,
    num_train=settings.pairs_per_epoch,
    inputs="canvas",
    make_model=make_model,
    trunk_only=trunk_only,
    losses=losses,
    kpis=kpis,
    sums=sums,
    summarise=summarise,
    train_batches=lambda batch_size, seed: random_pairs(
      parts["train"], settings.pool, batch_size, seed
    ),
    evaluation_batches=evaluation_batches,
  )


def _only(images: Images, rows: np.ndarray) -> Images:
  return Images(images.image[rows], images.label[rows])


def losses(outputs: dict[str, jax.Array], batch: Batch) -> dict[str, jax.Array]:
  """The loss of each task: cross-entropy, or mean squared error."""
  return model.losses(outputs, digits.Batch(**batch))


def kpis(outputs: dict[str, jax.Array], batch: Batch) -> dict[str, jax.Array]:
  """How well each task does, in [0, 1]: its accuracy, or the R² of a regression."""
  return model.kpis(outputs, digits.Batch(**batch))


def sums(outputs: dict[str, jax.Array], batch: Batch) -> dict[str, jax.Array]:
  """Squared errors and hits of a batch, to add up."""
  return {
    "canvas": jnp.sum(jnp.mean((outputs["canvas"] - batch["canvas"]) ** 2, axis=1)),
    "ink": jnp.sum((outputs["ink"][:, 0] - batch["ink"]) ** 2),
    "left": jnp.sum(outputs["left"].argmax(1) == batch["left"]),
    "right": jnp.sum(outputs["right"].argmax(1) == batch["right"]),
    "number": jnp.array(len(batch["ink"])),
  }


def summarise(total: dict[str, np.ndarray]) -> dict[str, float]:
  """The metrics: root mean squared errors, accuracies in percent."""
  mean = {task: float(total[task] / total["number"]) for task in TASKS}
  return {
    "canvas": mean["canvas"] ** 0.5,
    "ink": mean["ink"] ** 0.5,
    "left": 100 * mean["left"],
    "right": 100 * mean["right"],
  }
