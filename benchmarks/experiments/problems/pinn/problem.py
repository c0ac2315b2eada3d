"""What the equations share: settings, losses, metric and evaluation."""

import dataclasses
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.experiments.config import Settings
from benchmarks.experiments.metric import Metric
from benchmarks.experiments.problem import Batch, Problem
from benchmarks.experiments.problems.pinn import network
from benchmarks.experiments.problems.pinn.network import Field, Network
from benchmarks.experiments.problems.pinn.points import (
  Domain,
  Draw,
  grid,
  random_points,
)

# It judges the solution, which all tasks are needed for.
METRICS = (Metric("error", "solution", "relative L2 error", -1, 4, by_ratio=True),)
_TEST_SIDE = 101  # points along an edge

# Of a task, the misfits of conditions that hold at the same points, each [N].
Misfits = tuple[jax.Array, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkSettings(Settings):
  """The settings of the network and its points."""

  batch_size: int = 128
  """Points inside, and as many for each other task, per step."""
  epochs: int = 50
  """Parts of the training; each ends with an evaluation."""
  steps_per_call: int = 100
  """Steps that one compiled call takes, a divisor of an epoch's steps."""
  validation: float = 0.5
  """Above 0: choose settings by the error between the points of the test grid. It is
  that of the true solution, which a user of such a network does not know."""
  points_per_epoch: int = 12_800
  """Random points inside that an epoch is made of."""
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


@dataclasses.dataclass(frozen=True)
class Equation:
  """A differential equation, its side conditions and its solution.

  Points are [N, P, 2]: of each example one inside, then those of the side conditions.

  Attributes:
    title: Its name in tables.
    domain: Where it holds.
    places: P.
    draw: Draws the points of a batch.
    evaluate: Takes the network's solution and points, returns what the losses need, a
      dict of arrays [N]; ``inside`` is u at the points inside.
    misfits: Takes these arrays and points, returns the misfits of each task.
    scales: Takes points, returns the loss of each task that counts as having learnt
      nothing; indicators compare with it.
    solution: Takes points inside, [N, 2], returns the true u there, [N].
    tabulated: Whether ``solution`` is of NumPy, in float64, for the evaluation's points
      only. Otherwise it is of JAX.
  """

  title: str
  domain: Domain
  places: int
  draw: Draw
  evaluate: Callable[[Field, jax.Array], dict[str, jax.Array]]
  misfits: Callable[[dict[str, jax.Array], jax.Array], dict[str, Misfits]]
  scales: Callable[[jax.Array], dict[str, jax.Array]]
  solution: Callable
  tabulated: bool = False


def problem_of(equation: Equation, settings: NetworkSettings) -> Problem:
  """Makes the problem of an equation, which needs no data."""
  evaluated = {"test": _evaluated(equation, _TEST_SIDE)}
  if settings.validation:
    between = 0.5 / (_TEST_SIDE - 1)
    evaluated["validation"] = _evaluated(equation, _TEST_SIDE - 1, between)

  def losses(outputs: dict[str, jax.Array], batch: Batch) -> dict[str, jax.Array]:
    misfits = equation.misfits(outputs, batch["points"])
    return {task: _mean_square(misfits[task]) for task in sorted(misfits)}

  def kpis(outputs: dict[str, jax.Array], batch: Batch) -> dict[str, jax.Array]:
    """Computes the share of each loss that is gone, against nothing learnt."""
    scales = equation.scales(batch["points"])
    every = losses(outputs, batch)
    return {task: jnp.clip(1 - every[task] / scales[task], 0, 1) for task in every}

  def sums(outputs: dict[str, jax.Array], batch: Batch) -> dict[str, jax.Array]:
    tabulated = equation.tabulated
    inside = batch["points"][:, 0]
    truth = batch["solution"] if tabulated else equation.solution(inside)
    return {
      "error": jnp.sum((outputs["inside"] - truth) ** 2),
      "total": jnp.sum(truth**2),
    }

  def evaluation_batches(split: str) -> Iterator[Batch]:
    return iter([evaluated[split]] if split in evaluated else [])

  return Problem(
    title=equation.title,
    tasks=_tasks(equation),
    metrics=METRICS,
    num_train=settings.points_per_epoch,
    inputs="points",
    make_model=lambda rngs: Network(
      settings.hidden, settings.layers, equation.evaluate, rngs
    ),
    trunk_only=lambda params: jax.tree.map(lambda _: True, params),
    layers=network.layers,
    last_layer=network.last_layer,
    losses=losses,
    kpis=kpis,
    sums=sums,
    summarise=summarise,
    train_batches=lambda batch_size, seed: random_points(
      equation.draw, batch_size, seed
    ),
    evaluation_batches=evaluation_batches,
    baseline="equal-weights",
  )


def summarise(total: dict[str, np.ndarray]) -> dict[str, float]:
  """Computes the relative L2 error."""
  return {"error": float(np.sqrt(total["error"] / total["total"]))}


def _mean_square(misfits: Misfits) -> jax.Array:
  """Computes the mean square over the points, summed over conditions."""
  first, *others = (jnp.mean(misfit**2) for misfit in misfits)
  return sum(others, start=first)


def _tasks(equation: Equation) -> tuple[str, ...]:
  points = jnp.zeros((1, equation.places, 2))
  return tuple(sorted(jax.eval_shape(equation.scales, points)))


def _evaluated(equation: Equation, side: int, inset: float = 0.0) -> Batch:
  batch = grid(equation.domain, side, equation.places, inset)
  if equation.tabulated:
    truth = equation.solution(batch["points"][:, 0].astype(np.float64))
    batch["solution"] = truth.astype(np.float32)
  return batch
