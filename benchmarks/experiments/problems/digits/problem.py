"""The settings of the digits, and the problem that they describe."""

import dataclasses
import functools
from collections.abc import Iterator

from benchmarks.experiments import mlp
from benchmarks.experiments.config import Settings
from benchmarks.experiments.problem import Batch, Problem
from benchmarks.experiments.problems import pairs
from benchmarks.experiments.problems.digits.data import PIXELS, canvases, split


@dataclasses.dataclass(frozen=True, kw_only=True)
class DigitsSettings(Settings):
  """The settings of the canvases and the network."""

  batch_size: int = 64
  """Canvases per step."""
  epochs: int = 30
  """Parts of the training; each ends with an evaluation."""
  steps_per_call: int = 100
  """Steps that one compiled call takes, a divisor of an epoch's steps."""
  validation: float = 0.25
  """Share of the digits outside the test set that is held out to choose settings by."""
  canvases_per_epoch: int = 6_400
  """Random canvases that an epoch is made of."""
  evaluated_canvases: int = 2_000
  """Fixed canvases each to validate and to test on."""
  hidden: int = 64
  """Width of the two hidden layers."""


def make_problem(settings: DigitsSettings) -> Problem:
  """Makes the problem from the digits that come with scikit-learn."""
  parts = split(settings.validation)
  draw = {name: functools.partial(canvases, part) for name, part in parts.items()}
  evaluated = {
    name: pairs.fixed_pairs(draw[name], len(part.label), settings.evaluated_canvases)
    for name, part in parts.items()
    if len(part.label)
  }

  def evaluation_batches(name: str) -> Iterator[Batch]:
    return iter([evaluated[name]] if name in evaluated else [])

  return Problem(
    title=f"pairs of handwritten digits, {PIXELS} pixels",
    tasks=pairs.TASKS,
    metrics=pairs.METRICS,
    num_train=settings.canvases_per_epoch,
    inputs="canvas",
    make_model=lambda rngs: pairs.make_network(PIXELS, settings.hidden, rngs),
    trunk_only=mlp.trunk_only,
    layers=mlp.layers,
    last_layer=mlp.last_layer,
    last_bias=mlp.last_bias,
    losses=pairs.losses,
    kpis=pairs.kpis,
    sums=pairs.sums,
    summarise=pairs.summarise,
    train_batches=lambda batch_size, seed: pairs.random_pairs(
      draw["train"], len(parts["train"].label), batch_size, seed
    ),
    evaluation_batches=evaluation_batches,
  )


SETTINGS = DigitsSettings
