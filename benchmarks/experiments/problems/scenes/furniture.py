"""Builds furniture out of boxes, and collects the primitives of a room."""

import numpy as np

from benchmarks.experiments.problems.scenes.solids import NUM_FACES, Geometry
from benchmarks.experiments.problems.scenes.textures import (
  CHECKER,
  NOISE,
  PLAIN,
  STRIPES,
  Materials,
)

CLASSES = (
  "floor",
  "wall",
  "ceiling",
  "table",
  "chair",
  "cabinet",
  "bin",
  "ball",
  "picture",
  "window",
)
LEG = 0.03  # metres, half of a leg's width
GLOSSY = 0.15  # share of the things that reflect


class Pile:
  """Collects primitives with the class and the material of the things they form."""

  def __init__(self, rng: np.random.Generator):
    self._rng = rng
    self._things = 0
    self._current: tuple = ()
    self._faces: list[tuple] = []
    self._boxes: list[tuple] = []
    self._spheres: list[tuple] = []
    self._cylinders: list[tuple] = []

  def face(self, name: str, material: tuple) -> None:
    """Adds the next face of the room; all faces of one name are one thing."""
    label = CLASSES.index(name)
    self._faces.append(((), label, label, material))
    self._things = max(self._things, label + 1)

  def begin(self, name: str, material: tuple | None = None) -> None:
    """Begins a new thing, to which the primitives that follow belong."""
    if material is None:
      pattern = self._rng.choice([PLAIN, PLAIN, STRIPES, NOISE, CHECKER])
      material = self.draw_material(pattern, glossy=self._rng.random() < GLOSSY)
    self._current = (CLASSES.index(name), self._things, material)
    self._things += 1

  def box(self, centre, half, yaw: float = 0.0) -> None:
    """Adds a box to the current thing."""
    shape = (np.asarray(centre, float), np.asarray(half, float), yaw)
    self._boxes.append((shape, *self._current))

  def sphere(self, centre, radius: float) -> None:
    """Adds a sphere to the current thing."""
    self._spheres.append(((np.asarray(centre, float), radius), *self._current))

  def cylinder(self, centre, radius: float, half: float) -> None:
    """Adds an upright cylinder to the current thing."""
    shape = (np.asarray(centre, float), radius, half)
    self._cylinders.append((shape, *self._current))

  def draw_material(
    self,
    pattern: int,
    pale: float = 0.0,
    glow: float = 0.0,
    glossy: bool = False,
  ) -> tuple:
    """Draws a material: two related colours, whitened by the share ``pale``."""
    rng = self._rng
    colour = rng.uniform(0.15, 0.9, 3)
    # Real things are seldom vivid: part of the way to grey of the same brightness.
    colour += rng.uniform(0.35, 0.85) * (colour.mean() - colour)
    other = np.clip(colour * rng.uniform(0.5, 0.85) + rng.normal(0, 0.04, 3), 0, 1)
    colours = np.stack([colour, other])
    colours += pale * (0.92 - colours)
    period = rng.uniform(0.12, 0.4)
    return pattern, colours, period, glow, rng.uniform(0.5, 0.9) if glossy else 0.0

  def gather(self, size: np.ndarray):
    """Returns geometry, materials, labels [P] and things [P] of all primitives."""
    every = self._faces + self._boxes + self._spheres + self._cylinders
    assert len(self._faces) == NUM_FACES

    def column(primitives, number, *shape):
      return np.array([p[0][number] for p in primitives], float).reshape(-1, *shape)

    geometry = Geometry(
      size,
      *(column(self._boxes, 0, 3), column(self._boxes, 1, 3), column(self._boxes, 2)),
      *(column(self._spheres, 0, 3), column(self._spheres, 1)),
      *(column(self._cylinders, 0, 3), column(self._cylinders, 1)),
      column(self._cylinders, 2),
    )
    materials = Materials(
      *(np.array(x) for x in zip(*(p[3] for p in every), strict=True))
    )
    label, thing = (np.array([p[i] for p in every]) for i in (1, 2))
    return geometry, materials, label, thing


def add_table(pile: Pile, rng: np.random.Generator, place: np.ndarray) -> float:
  """Adds a top on four legs; returns its height in metres."""
  length, width, height = rng.uniform([0.45, 0.3, 0.5], [0.7, 0.42, 0.8])
  yaw = rng.choice([0.0, np.pi / 2]) + rng.normal(0, 0.2)
  pile.begin("table")
  pile.box([*place, height - 0.025], [length, width, 0.025], yaw)
  _add_legs(pile, place, length - LEG, width - LEG, height - 0.05, yaw)
  return height


def add_chair(pile: Pile, rng: np.random.Generator, place: np.ndarray) -> None:
  """Adds a seat on four legs, with a back."""
  half, seat = rng.uniform([0.19, 0.4], [0.24, 0.5])
  back, yaw = rng.uniform([0.35, 0], [0.55, 2 * np.pi])
  pile.begin("chair")
  pile.box([*place, seat - 0.02], [half, half, 0.02], yaw)
  edge = place + (half - 0.02) * np.array([np.cos(yaw), np.sin(yaw)])
  pile.box([*edge, seat + back / 2], [0.02, half, back / 2], yaw)
  _add_legs(pile, place, half - LEG, half - LEG, seat - 0.04, yaw)


def _add_legs(pile: Pile, place, along: float, across: float, height, yaw) -> None:
  """Adds four legs at the corners of a rectangle of these half lengths."""
  cosine, sine = np.cos(yaw), np.sin(yaw)
  for x, y in ((along, across), (along, -across), (-along, across), (-along, -across)):
    corner = place + np.array([cosine * x - sine * y, sine * x + cosine * y])
    pile.box([*corner, height / 2], [LEG, LEG, height / 2], yaw)


def add_cabinet(pile: Pile, rng: np.random.Generator, size: np.ndarray, taken) -> None:
  """Adds a box on the floor with its back to a wall, where there is room for it.

  ``taken``, a list of discs (centre [2], radius), is read and added to.
  """
  for _ in range(10):
    width, depth, height = rng.uniform([0.3, 0.2, 0.35], [0.7, 0.3, 1.05])
    wall = rng.integers(4)
    place, half = _against_wall(rng, int(wall), size, width, depth)
    radius = float(np.hypot(width, depth))
    if all(np.hypot(*(place - p)) > radius + r for p, r in taken):
      taken.append((place, radius))
      pile.begin("cabinet")
      pile.box([*place, height], [*half, height])
      return


def add_hung(
  pile: Pile, rng: np.random.Generator, name: str, wall: int, size: np.ndarray
) -> None:
  """Adds a picture or a window to a wall, which is numbered as in ``Geometry``."""
  low, high = ([0.4, 0.4], [0.7, 0.6]) if name == "window" else ([0.2, 0.2], [0.5, 0.4])
  width, height = rng.uniform(low, high)
  place, half = _against_wall(rng, wall, size, width, 0.015)
  middle = rng.uniform(1.4, 1.7)
  glow = 0.8 if name == "window" else 0.0
  material = pile.draw_material(
    rng.choice([PLAIN, NOISE]) if name == "window" else rng.choice([CHECKER, NOISE]),
    pale=0.6 if name == "window" else 0.0,
    glow=glow,
    glossy=name == "window",
  )
  pile.begin(name, material)
  pile.box([*place, middle], [*half, height])


def _against_wall(rng, wall: int, size, width: float, depth: float):
  """Computes place [2] and half lengths [2] of a box at a wall."""
  across, far = divmod(wall, 2)  # the axis that the wall is perpendicular to
  along = 1 - across
  place, half = np.empty(2), np.empty(2)
  half[across], half[along] = depth, width
  place[across] = size[across] - depth if far else depth
  place[along] = rng.uniform(width, size[along] - width)
  return place, half
