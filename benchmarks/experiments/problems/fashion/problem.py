"""The network, its four tasks and their metrics."""

import dataclasses
from collections.abc import Iterator

import numpy as np

from benchmarks.experiments import mlp
from benchmarks.experiments.config import FileSettings
from benchmarks.experiments.loading import hold_out, in_order
from benchmarks.experiments.problem import Batch, Problem
from benchmarks.experiments.problems import pairs
from benchmarks.experiments.problems.fashion.data import (
  SIDE,
  Images,
  fixed_pairs,
  load,
  random_pairs,
)

_EVALUATED_AT_ONCE = 1_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class FashionSettings(FileSettings):
  """The settings of the pairs and the network."""

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
    """Checks the settings before anything is loaded."""
    super().__post_init__()
    if self.pool < 1 or SIDE % self.pool:
      raise ValueError(f"pool must be a divisor of {SIDE}, got {self.pool}")


def make_problem(settings: FashionSettings) -> Problem:
  """Makes the problem from the images in the file ``settings.data``."""
  images, test = load(settings.data)
  kept, validation = hold_out(len(images.label), settings.validation, seed=0)
  parts = {
    "train": _only(images, kept),
    "validation": _only(images, validation),
    "test": test,
  }
  pixels = (SIDE // settings.pool) ** 2

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
    tasks=pairs.TASKS,
    metrics=pairs.METRICS,
    num_train=settings.pairs_per_epoch,
    inputs="canvas",
    make_model=lambda rngs: pairs.make_network(pixels, settings.hidden, rngs),
    trunk_only=mlp.trunk_only,
    layers=mlp.layers,
    last_layer=mlp.last_layer,
    last_bias=mlp.last_bias,
    losses=pairs.losses,
    kpis=pairs.kpis,
    sums=pairs.sums,
    summarise=pairs.summarise,
    train_batches=lambda batch_size, seed: random_pairs(
      parts["train"], settings.pool, batch_size, seed
    ),
    evaluation_batches=evaluation_batches,
  )


def _only(images: Images, rows: np.ndarray) -> Images:
  return Images(images.image[rows], images.label[rows])


SETTINGS = FashionSettings
