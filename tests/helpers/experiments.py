"""Provides a tiny problem for the tests of the experiments, with very short steps."""

import dataclasses
import json
from pathlib import Path

import numpy as np

from benchmarks.experiments.config import Run
from benchmarks.experiments.mlp import MLP
from benchmarks.experiments.problems import pairs
from benchmarks.experiments.problems.fashion.problem import FashionSettings
from benchmarks.experiments.sweep import Sweep, read_summary

ROOT = Path(__file__).parent.parent.parent
TINY = {
  "hidden": 8,
  "pool": 6,
  "batch_size": 8,
  "pairs_per_epoch": 32,
  "evaluated_pairs": 16,
  "epochs": 3,
  "schedule": "constant",
  "validation": 0.0,
}
# Short of the protocol, which is the default.
ONE_RATE = {
  "learning_rates": (0.01,),
  "seeds": 3,
  "tuning_seeds": 1,
  "tuning_seeds_apart": False,
}
STEPS_PER_EPOCH, STEPS = 4, 12
TASKS = ("ink", "left")  # those of the problem with two tasks


@dataclasses.dataclass(frozen=True, kw_only=True)
class TinyRun(FashionSettings, Run):
  pass


@dataclasses.dataclass(frozen=True, kw_only=True)
class TinySweep(FashionSettings, Sweep):
  pass


def committed(study, markdown):
  """Reads a study of the digits, and checks that its table is that of its results."""
  folder = ROOT / "benchmarks" / "results" / "digits"
  found = json.loads((folder / f"{study}.json").read_text())
  table = markdown(read_summary(folder), found)
  assert (folder / f"{study}.md").read_text() == table + "\n"
  return found["rows"]


def tiny_run(data, out=Path("unused"), **settings):
  return TinyRun(data=data, out=out, **TINY | {"learning_rate": 0.01} | settings)


def tiny_sweep(data, out, **settings):
  return TinySweep(data=data, out=out, **TINY | ONE_RATE | settings)


def of_two_tasks(problem):
  """Keeps half of the tiny problem's tasks, so that it compiles in half the time."""

  def padded(function):
    def with_outputs_of_all(outputs, batch):
      others = {"canvas": batch["canvas"], "right": outputs["left"]}
      return function(outputs | others, batch)

    return with_outputs_of_all

  return dataclasses.replace(
    problem,
    tasks=TASKS,
    metrics=tuple(m for m in problem.metrics if m.task in TASKS),
    make_model=lambda rngs: MLP(36, 8, {"ink": 1, "left": 10}, rngs),
    losses=padded(pairs.losses),
    kpis=padded(pairs.kpis),
    sums=padded(pairs.sums),
  )


def flags(**settings):
  """Formats the tiny problem's settings as flags of the command line."""
  return [
    part
    for name, value in (TINY | {"learning_rate": 0.01} | settings).items()
    for part in ("--" + name.replace("_", "-"), str(value))
  ]


def random_images(train=40, test=20):
  """Draws the arrays that a file of Fashion-MNIST images holds."""
  random = np.random.default_rng(0)
  return {
    "x_train": random.integers(256, size=(train, 28, 28), dtype=np.uint8),
    "y_train": random.integers(10, size=train),
    "x_test": random.integers(256, size=(test, 28, 28), dtype=np.uint8),
    "y_test": random.integers(10, size=test),
  }


def write_images(folder):
  path = folder / "images.npz"
  np.savez(path, **random_images())
  return path
