"""Makes the paper's tables and figures in minutes, on small data.

``python -m benchmarks.experiments.paper`` renders scenes, trains every method of the
paper on them, and writes a table like the paper's tables 2 and 3, figures 1, 4 and 5,
and figure 2 on handwritten digits. It demonstrates the whole path on two cores; its
numbers are those of small synthetic scenes.
"""

import dataclasses
import sys
from pathlib import Path

import tyro

from benchmarks.experiments.cli import commands
from benchmarks.experiments.model import Model
from benchmarks.experiments.paper import batch_size
from benchmarks.experiments.problems.scenes import synthetic
from benchmarks.experiments.problems.scenes.problem import (
  SceneSettings,
  make_problem,
  reference,
)
from benchmarks.experiments.report import Report, report, text
from benchmarks.experiments.sweep import sweep


@dataclasses.dataclass(frozen=True, kw_only=True)
class Paper:
  """The paper's tables and figures on synthetic scenes, small enough for two cores."""

  out: Path = Path("out/paper")
  """Folder for data, runs, tables and figures."""
  methods: tuple[str, ...] = ("paper", "maxgnr-0.9-smoothed-0.9-own-heads")
  """Rows of the table, or names of sets of them, as `sweep` takes them."""
  seeds: int = 2
  """Runs per method that are reported."""
  tuning_seeds: int = 1
  """Runs per method by which the learning rate is chosen."""
  epochs: int = 20
  """Passes over the scenes."""
  learning_rates: tuple[float, ...] = (3e-3, 1e-2)
  """Adam's; validation scenes choose one for each row."""
  validation: float = 0.2
  """Share of the scenes to train on that is held out to choose by."""
  train: int = 160
  """Scenes to train on."""
  test: int = 64
  """Scenes to test on."""
  height: int = 24
  """Pixels of a scene from top to bottom."""
  width: int = 32
  """Pixels of a scene from left to right."""
  filters: tuple[int, ...] = (8, 16, 32)
  """Channels of the network's stages."""


def main(paper: Paper) -> str:
  """Makes whatever is missing of the tables and figures, and returns the tables."""
  rooms = paper.out / "rooms"
  synthetic.write(rooms, paper.train, paper.test, paper.height, paper.width)
  of_scenes = commands(SceneSettings)
  settings = of_scenes["sweep"](
    data=rooms,
    out=paper.out / "scenes",
    filters=paper.filters,
    batch_size=8,
    epochs=paper.epochs,
    learning_rates=paper.learning_rates,
    validation=paper.validation,
    seeds=paper.seeds,
    tuning_seeds=paper.tuning_seeds,
    methods=paper.methods,
  )
  model = Model(make_problem(settings))
  sweep(model, settings, of_scenes["train"])
  options = Report(data=rooms, out=settings.out, to=paper.out)
  published = reference(settings)
  found = text(report(model, options, published), published)
  batch_size.main(
    batch_size.Settings(
      out=paper.out / "batch_size",
      batch_sizes=(4, 32, 256),
      passes=paper.epochs,
      steps=15 * paper.epochs,
      seeds=paper.seeds,
    )
  )
  return found


if __name__ == "__main__":
  try:
    print(main(tyro.cli(Paper, prog="python -m benchmarks.experiments.paper")))
  except ValueError as error:
    sys.exit(f"python -m benchmarks.experiments.paper: {error}")
