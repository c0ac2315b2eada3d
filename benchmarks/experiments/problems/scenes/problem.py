"""The scenes' settings, and the problem that they describe."""

import dataclasses
from collections.abc import Iterator

from benchmarks.experiments.config import FileSettings
from benchmarks.experiments.loading import hold_out
from benchmarks.experiments.mlp import trunk_only
from benchmarks.experiments.problem import Batch, Problem
from benchmarks.experiments.problems.scenes import checking, losses, metrics, paper
from benchmarks.experiments.problems.scenes.folder import (
  CITYSCAPES,
  Scenes,
  find_layout,
)
from benchmarks.experiments.problems.scenes.loading import batches, evaluation_batches
from benchmarks.experiments.problems.scenes.segnet import FILTERS, SegNet
from benchmarks.experiments.tables import Reference

_IN_MEMORY = 2**30  # bytes; more is read again whenever it is needed


@dataclasses.dataclass(frozen=True, kw_only=True)
class SceneSettings(FileSettings):
  """The settings of the files and the network."""

  batch_size: int = 0
  """Examples per step. 0: as in the paper, 2, and 128 for Cityscapes."""
  microbatches: int = 0
  """Parts into which a batch is divided to save memory; each is normalised by itself.
  0: as in the paper, 1, and 8 for Cityscapes."""
  epochs: int = 0
  """Passes over the training set; each ends with an evaluation. 0: as in the paper,
  100, and 200 for Cityscapes."""
  filters: tuple[int, ...] = FILTERS
  """Channels of the network's stages, each of half the resolution."""
  augment: bool = False
  """Zoom and mirror training images at random."""

  def __post_init__(self) -> None:
    """Replaces zeros by the paper's settings for these data, and checks the rest."""
    is_cityscapes = find_layout(self.data).name == CITYSCAPES.name
    papers = {"batch_size": (2, 128), "microbatches": (1, 8), "epochs": (100, 200)}
    for name, values in papers.items():
      if getattr(self, name) == 0:
        object.__setattr__(self, name, values[is_cityscapes])
    super().__post_init__()
    if not self.filters or min(self.filters) < 1:
      raise ValueError(f"filters must be positive, at least one, got {self.filters}")


def make_problem(settings: SceneSettings) -> Problem:
  """Makes the problem from the folder ``settings.data``, after a check of its files."""
  layout = find_layout(settings.data)
  size = checking.check(settings.data, "train")
  test_size = checking.check(settings.data, "val")
  if test_size[1:] != size[1:]:
    raise ValueError(
      f"{settings.data}: images in train and val must be of one size, got "
      f"{size.height}x{size.width} and {test_size.height}x{test_size.width}"
    )
  halvings = 2 ** len(settings.filters)
  if size.height % halvings or size.width % halvings:
    raise ValueError(
      f"{len(settings.filters)} stages halve an image as often: {halvings} must divide "
      f"its sides, got {size.height}x{size.width}; give fewer filters"
    )
  normal = ("normal",) if layout.has_normals else ()
  tasks = ("depth", *normal, "segmentation")
  kept, validation = hold_out(size.number, settings.validation, seed=0)
  numbers = size.height * size.width * (8 if layout.has_normals else 5)
  in_memory = 4 * numbers * (size.number + test_size.number) < _IN_MEMORY
  parts = {
    "train": Scenes(settings.data, "train", kept, in_memory),
    "validation": Scenes(settings.data, "train", validation, in_memory),
    "test": Scenes(settings.data, "val", None, in_memory),
  }

  def of_split(split: str) -> Iterator[Batch]:
    return evaluation_batches(
      parts[split], settings.batch_size // settings.microbatches
    )

  kind = "synthetic (rendered) scenes" if layout.classes else layout.name
  return Problem(
    title=f"{kind}, {size.number} of {size.height}x{size.width} to train on",
    tasks=tasks,
    metrics=tuple(metric for metric in metrics.METRICS if metric.task in tasks),
    num_train=len(kept),
    inputs="image",
    make_model=lambda rngs: SegNet(
      layout.num_classes, tasks, settings.filters, rngs=rngs
    ),
    trunk_only=trunk_only,
    losses=losses.losses,
    kpis=losses.kpis,
    sums=metrics.sums,
    summarise=metrics.summarise,
    train_batches=lambda batch_size, seed: batches(
      parts["train"],
      batch_size,
      seed,
      augment=settings.augment,
      inverse_depth=layout.inverse_depth,
    ),
    evaluation_batches=of_split,
  )


def reference(settings: SceneSettings) -> Reference:
  """Returns the paper's numbers on the data set that has the same tasks."""
  return paper.TABLE_2 if find_layout(settings.data).has_normals else paper.TABLE_3


SETTINGS = SceneSettings
