"""Random points to train on, and grids to evaluate on."""

import sys
from collections.abc import Callable
from typing import Any

import grain
import numpy as np

from benchmarks.experiments.problem import Batch

# A rectangle: the lowest and the highest value along each of the two axes.
Domain = tuple[tuple[float, float], tuple[float, float]]
# From a generator and N to the points of a batch, [N, P, 2]: of each example one
# inside, and others where side conditions hold.
Draw = Callable[[np.random.Generator, int], np.ndarray]


class _RandomPoints:
  """A source for grain: element t holds the points of step t."""

  def __init__(self, draw: Draw, batch_size: int, seed: int):
    self._draw, self._batch_size, self._seed = draw, batch_size, seed

  def __len__(self) -> int:
    return sys.maxsize

  def __getitem__(self, step: Any) -> Batch:
    random = np.random.default_rng((self._seed, int(step)))
    return {"points": self._draw(random, self._batch_size).astype(np.float32)}


def random_points(draw: Draw, batch_size: int, seed: int) -> grain.MapDataset:
  """Makes endless batches of new points."""
  return grain.MapDataset.source(_RandomPoints(draw, batch_size, seed))


def draw_in_time(domain: Domain) -> Draw:
  """Makes a function that draws points (x, t) for an equation in space and time.

  The first of the P = 3 points of an example lies inside, the second at either end of
  space, the third at the first moment.
  """
  ((left, right), (start, end)) = domain

  def draw(random: np.random.Generator, size: int) -> np.ndarray:
    points = random.uniform((left, start), (right, end), size=(size, 3, 2))
    points[:, 1, 0] = random.choice([left, right], size=size)
    points[:, 2, 1] = start
    return points

  return draw


def grid(domain: Domain, side: int, places: int, inset: float = 0.0) -> Batch:
  """Makes a batch of side² points, a grid over the domain.

  Args:
    domain: The rectangle.
    side: Points along an edge.
    places: P. The points stand in every place of an example; an evaluation reads the
      first.
    inset: Distance to the boundary, as a share of an edge.
  """
  lines = [
    np.linspace(a + inset * (b - a), b - inset * (b - a), side, dtype=np.float32)
    for a, b in domain
  ]
  points = np.stack(np.meshgrid(*lines, indexing="ij"), axis=-1).reshape(-1, 1, 2)
  return {"points": np.repeat(points, places, axis=1)}
