"""The equation, the network, its two tasks and their metrics.

``Δu + k² u = q`` on [-1, 1]², with q such that ``u = sin(a₁ π x) sin(a₂ π y)``. A batch
holds ``points`` [N, 2, 2]: of each example a point inside and one on the boundary.
"""

import dataclasses
import itertools
import sys
from collections.abc import Iterator
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks.experiments.config import Settings
from benchmarks.experiments.metric import Metric
from benchmarks.experiments.problem import Batch, Problem

TASKS = ("boundary", "residual")
# It judges the solution, which both tasks are needed for.
METRICS = (Metric("error", "solution", "relative L2 error", -1, 4, by_ratio=True),)
WAVE_NUMBER = 1.0  # k
_TEST_SIDE = 101  # points along an edge


@dataclasses.dataclass(frozen=True, kw_only=True)
class HelmholtzSettings(Settings):
  """The settings of the solution and the network."""

  batch_size: int = 128
  """Points inside, and as many on the boundary, per step."""
  epochs: int = 50
  """Parts of the training; each ends with an evaluation."""
  steps_per_call: int = 100
  """Steps that one compiled call takes, a divisor of an epoch's steps."""
  validation: float = 0.5
  """Above 0: choose settings by the error between the points of the test grid. It is
  that of the true solution, which a user of such a network does not know."""
  points_per_epoch: int = 12_800
  """Random points inside that an epoch is made of."""
  waves: tuple[int, int] = (1, 4)
  """Half as many waves as the solution has along x and y."""
  hidden: int = 50
  """Width of the hidden layers."""
  layers: int = 4
  """Number of hidden layers."""

  def __post_init__(self) -> None:
    """Checks the settings before anything is loaded."""
    super().__post_init__()
    for name in ("hidden", "layers"):
      if getattr(self, name) < 1:
        raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


class Network(nnx.Module):
  """Hidden layers with tanh, from points in the plane to one number.

  Args:
    hidden: Width of the hidden layers.
    layers: Their number.
    rngs: For the initial parameters.
  """

  def __init__(self, hidden: int, layers: int, rngs: nnx.Rngs):
    sizes = [2, *[hidden] * layers, 1]
    make_kernel = nnx.initializers.glorot_normal()
    self.layers = nnx.List(
      nnx.Linear(a, b, kernel_init=make_kernel, rngs=rngs)
      for a, b in itertools.pairwise(sizes)
    )

  def solution(self, points: jax.Array) -> jax.Array:
    """Computes u at points [N, 2]."""
    *hidden, last = self.layers
    for layer in hidden:
      points = jnp.tanh(layer(points))
    return last(points)[:, 0]

  def __call__(self, points: jax.Array) -> dict[str, jax.Array]:
    """Computes what the losses need of points [N, 2, 2], each [N].

    Returns:
      ``inside``, u at the points inside; ``laplacian``, Δu there; ``boundary``, u at
      the points on the boundary.
    """
    inside, boundary = points[:, 0], points[:, 1]

    def second_derivative(axis: int) -> jax.Array:
      along = jnp.zeros_like(inside).at[:, axis].set(1)

      def first_derivative(x: jax.Array) -> jax.Array:
        return jax.jvp(self.solution, (x,), (along,))[1]

      return jax.jvp(first_derivative, (inside,), (along,))[1]

    return {
      "inside": self.solution(inside),
      "laplacian": second_derivative(0) + second_derivative(1),
      "boundary": self.solution(boundary),
    }


class _RandomPoints:
  """A source for grain: element t holds the points of step t."""

  def __init__(self, batch_size: int, seed: int):
    self._batch_size, self._seed = batch_size, seed

  def __len__(self) -> int:
    return sys.maxsize

  def __getitem__(self, step: Any) -> Batch:
    random = np.random.default_rng((self._seed, int(step)))
    points = random.uniform(-1, 1, size=(self._batch_size, 2, 2))
    rows, axis = np.arange(self._batch_size), random.integers(2, size=self._batch_size)
    points[rows, 1, axis] = random.choice([-1.0, 1.0], size=self._batch_size)
    return {"points": points.astype(np.float32)}


def grid(side: int, margin: float = 0.0) -> Batch:
  """Makes a batch of side² points, a grid with a margin to the boundary.

  They stand in both places of an example; an evaluation reads the first.
  """
  line = np.linspace(-1 + margin, 1 - margin, side, dtype=np.float32)
  points = np.stack(np.meshgrid(line, line, indexing="ij"), axis=-1).reshape(-1, 1, 2)
  return {"points": np.repeat(points, 2, axis=1)}


def make_problem(settings: HelmholtzSettings) -> Problem:
  """Makes the problem, which needs no data."""
  waves = np.pi * np.array(settings.waves, np.float32)
  # Δu = -(a₁² + a₂²) π² u
  source = float(WAVE_NUMBER**2 - np.sum(waves**2))  # q / u
  evaluated = {"test": grid(_TEST_SIDE)}
  if settings.validation:
    evaluated["validation"] = grid(_TEST_SIDE - 1, margin=1 / (_TEST_SIDE - 1))

  def exact(points: jax.Array) -> jax.Array:
    return jnp.prod(jnp.sin(waves[None] * points), axis=-1)

  def errors(outputs: dict[str, jax.Array], batch: Batch) -> dict[str, jax.Array]:
    inside, boundary = batch["points"][:, 0], batch["points"][:, 1]
    equation = outputs["laplacian"] + WAVE_NUMBER**2 * outputs["inside"]
    return {
      "boundary": outputs["boundary"] - exact(boundary),
      "residual": equation - source * exact(inside),
    }

  def losses(outputs: dict[str, jax.Array], batch: Batch) -> dict[str, jax.Array]:
    return {task: jnp.mean(error**2) for task, error in errors(outputs, batch).items()}

  def kpis(outputs: dict[str, jax.Array], batch: Batch) -> dict[str, jax.Array]:
    """Compares the residual with that of u = 0, the boundary values with u = 1."""
    every = losses(outputs, batch)
    zero = jnp.mean((source * exact(batch["points"][:, 0])) ** 2)
    return {
      "boundary": jnp.clip(1 - every["boundary"], 0, 1),
      "residual": jnp.clip(1 - every["residual"] / zero, 0, 1),
    }

  def sums(outputs: dict[str, jax.Array], batch: Batch) -> dict[str, jax.Array]:
    truth = exact(batch["points"][:, 0])
    return {
      "error": jnp.sum((outputs["inside"] - truth) ** 2),
      "total": jnp.sum(truth**2),
    }

  def evaluation_batches(split: str) -> Iterator[Batch]:
    return iter([evaluated[split]] if split in evaluated else [])

  return Problem(
    title=f"Helmholtz equation, a = {settings.waves}",
    tasks=TASKS,
    metrics=METRICS,
    num_train=settings.points_per_epoch,
    inputs="points",
    make_model=lambda rngs: Network(settings.hidden, settings.layers, rngs),
    trunk_only=lambda params: jax.tree.map(lambda _: True, params),
    layers=lambda params: jax.tree.map_with_path(
      lambda path, _: f"layer {path[1].key}", params
    ),
    losses=losses,
    kpis=kpis,
    sums=sums,
    summarise=summarise,
    train_batches=lambda batch_size, seed: grain.MapDataset.source(
      _RandomPoints(batch_size, seed)
    ),
    evaluation_batches=evaluation_batches,
    baseline="equal-weights",
  )


def summarise(total: dict[str, np.ndarray]) -> dict[str, float]:
  """Computes the relative L2 error."""
  return {"error": float(np.sqrt(total["error"] / total["total"]))}


SETTINGS = HelmholtzSettings
