"""The settings of a run, and those by which two runs are told apart."""

import dataclasses
import json
import os
import tomllib
from pathlib import Path
from typing import Any, Literal

from benchmarks.methods import FIXED_WEIGHTS, named

# Settings that a run's numbers do not depend on.
_OPERATION = ("data", "out", "resume", "checkpoint_seconds", "tensorboard")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
  """Settings that all runs of a sweep share."""

  out: Path = Path("out/run")
  """Folder for settings, log, checkpoints and results."""
  batch_size: int = 2
  """Examples per step."""
  microbatches: int = 1
  """Parts into which a batch is divided to save memory."""
  epochs: int = 100
  """Passes over the training set; each ends with an evaluation."""
  optimizer: Literal["adam", "sgd"] = "adam"
  """What follows the method: Adam, or gradient descent with a momentum of 0.9."""
  schedule: Literal["cosine", "warmup", "constant"] = "cosine"
  """The learning rate over a run: a linear warm-up over 5 % of the steps and a cosine
  decay to 0, or the warm-up alone, or constant as in the paper. With ``cosine`` the
  result is the last model's, else the mean over the last epochs, 10 at most."""
  validation: float = 0.1
  """Share of the training set that is held out to choose settings by."""
  checkpoint_seconds: float = 60.0
  """Least time between two checkpoints."""
  steps_per_call: int = 1
  """Steps that one compiled call takes, a divisor of an epoch's steps. More are faster
  for a small model, but not for convolutions, which a CPU computes several times as
  slowly within a loop; a run that is killed goes on after the last whole call."""
  tensorboard: bool = False
  """Log for TensorBoard besides the CSV file."""
  record_stats: bool = False
  """Keep MaxGNR's gradient statistics at the end of each epoch in ``result.json``."""

  def __post_init__(self) -> None:
    """Checks the settings before anything is loaded."""
    for name in ("batch_size", "microbatches", "epochs", "steps_per_call"):
      if getattr(self, name) < 1:
        raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
    if self.batch_size % self.microbatches:
      raise ValueError(
        f"microbatches must divide the batch size, got {self.microbatches} parts of "
        f"{self.batch_size}"
      )
    if not 0 <= self.validation < 1:
      raise ValueError(f"validation must be in [0, 1), got {self.validation}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FileSettings(Settings):
  """The settings of a problem whose data are files."""

  data: Path
  """The data: a folder or file."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ManyRuns(Settings):
  """Settings by which all rows of a table are tuned and repeated alike."""

  learning_rates: tuple[float, ...] = (3e-3, 1e-2, 3e-2)
  """The optimiser's; validation data choose one of several for each row."""
  most_extensions: int = 4
  """Rates that are tried besides with a row whose best one is at an edge of several,
  one after another, until it is inside. 0: none."""
  seeds: int = 5
  """Runs per row that are reported."""
  tuning_seeds: int = 4
  """Runs per row by which the learning rate is chosen."""
  tuning_seeds_apart: bool = True
  """Report other seeds than those by which the learning rate is chosen: the ``seeds``
  that follow them. Otherwise there must be at least as many ``seeds``."""
  jobs: int = os.cpu_count() or 1
  """Runs at the same time."""

  def __post_init__(self) -> None:
    """Checks the settings before anything is loaded."""
    super().__post_init__()
    for name in ("seeds", "tuning_seeds", "jobs"):
      if getattr(self, name) < 1:
        raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
    if self.most_extensions < 0:
      raise ValueError(
        f"most_extensions must be at least 0, got {self.most_extensions}"
      )
    if self.tuning_seeds > self.seeds and not self.tuning_seeds_apart:
      raise ValueError(
        f"tuning_seeds must be at most seeds, got {self.tuning_seeds} of {self.seeds}"
      )
    if len(set(self.learning_rates)) > 1 and not self.validation:
      raise ValueError(
        "learning rates are chosen on validation data, never on the test set: give "
        "--validation 0.1, or a single learning rate"
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run(Settings):
  """One training run."""

  method: str = "maxgnr"
  """A method of benchmarks/methods.py; ``maxgnr`` with the options below."""
  gamma: float = 0.9
  """The decay γ of MaxGNR's momentum."""
  solver: Literal["exact", "paper"] = "exact"
  """How MaxGNR solves Eq. 17: exactly, or by the paper's 100 steepest-descent steps."""
  measure: Literal["trunk", "all"] = "trunk"
  """Which parameters' gradients MaxGNR measures: the shared ones, or all."""
  tasks: tuple[str, ...] = ()
  """Train these tasks only; none named: all. One alone is trained by its own loss."""
  weights: tuple[float, ...] = ()
  """With ``fixed-weights``: one per task, in the order of their names; none: equal."""
  learning_rate: float = 1e-4
  """The optimiser's learning rate."""
  seed: int = 0
  """Determines the initial parameters and the order of the data."""
  resume: bool = False
  """Resume the run in ``out``."""

  def __post_init__(self) -> None:
    """Checks the settings before anything is loaded."""
    super().__post_init__()
    if not self.learning_rate > 0:
      raise ValueError(f"learning_rate must be positive, got {self.learning_rate}")
    named(self.method_name)
    if self.weights and self.method != FIXED_WEIGHTS:
      raise ValueError(f"weights are those of {FIXED_WEIGHTS}, not of {self.method}")
    # In the order of a problem's tasks, so that a run has one identity.
    object.__setattr__(self, "tasks", tuple(sorted(set(self.tasks))))

  @property
  def method_name(self) -> str:
    """The name of the method with its options, as tables show it."""
    if self.method != "maxgnr":
      return self.method
    solver = "-paper-solver" if self.solver == "paper" else ""
    return f"maxgnr-{self.gamma:g}{solver}{'-all' if self.measure == 'all' else ''}"

  def identity(self, title: str) -> dict[str, Any]:
    """Lists everything that the run's numbers depend on, for JSON."""
    fields = {
      name: value
      for name, value in dataclasses.asdict(self).items()
      if name not in (*_OPERATION, "method", "gamma", "solver", "measure")
    }
    if not self.weights:
      fields.pop("weights")  # older runs do not have them
    method = "single-task" if len(self.tasks) == 1 else self.method_name
    whole = {"problem": title, "method": method, **fields}
    return json.loads(json.dumps(whole))  # tuples are lists there


def read_file(path: Path) -> dict[str, Any]:
  """Reads settings from a TOML file: ``learning-rate = 0.001`` or with ``_``."""
  return {
    name.replace("-", "_"): value
    for name, value in tomllib.loads(path.read_text()).items()
  }
