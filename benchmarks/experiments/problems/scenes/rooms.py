"""Makes random furnished rooms with a camera.

What a thing is shows in its shape and place, not in its colour: all furniture draws its
materials from the same palette.
"""

from typing import NamedTuple

import numpy as np

from benchmarks.experiments.problems.scenes.furniture import (
  Pile,
  add_cabinet,
  add_chair,
  add_hung,
  add_table,
)
from benchmarks.experiments.problems.scenes.solids import (
  CEILING,
  FLOOR,
  NUM_FACES,
  Geometry,
)
from benchmarks.experiments.problems.scenes.textures import (
  CHECKER,
  NOISE,
  PLAIN,
  STRIPES,
  Materials,
)

CLEARANCE = 0.9  # metres from the camera to the middle of anything on the floor
UNLABELLED = 0.06  # share of the things without a label


class Camera(NamedTuple):
  """The place and the direction of a camera.

  Attributes:
    position: [3]. Metres.
    axes: [3, 3]. Rows: unit vectors right, up and back (against the view).
  """

  position: np.ndarray
  axes: np.ndarray


class Room(NamedTuple):
  """Everything that a picture depends on except its resolution; P primitives.

  Attributes:
    geometry: Faces of the room, and solids.
    materials: Materials of the P primitives.
    label: [P], int. Number in ``furniture.CLASSES``, or -1 without a label.
    thing: [P], int. Primitives of one number form one thing.
    light: [3]. Position of the lamp.
    brightness: Brightness of the lamp's light.
    ambient: Brightness of the light from everywhere.
    camera: A camera inside the room and outside of all solids.
  """

  geometry: Geometry
  materials: Materials
  label: np.ndarray
  thing: np.ndarray
  light: np.ndarray
  brightness: float
  ambient: float
  camera: Camera


def furnish(rng: np.random.Generator) -> Room:
  """Makes a random room."""
  size = rng.uniform([3.2, 3.6, 2.4], [5.5, 6.5, 3.0])
  pile = Pile(rng)
  _paint_faces(pile, rng)
  camera = _camera(rng, size)
  taken = [(camera.position[:2], CLEARANCE)]

  def free_place(radius: float) -> np.ndarray | None:
    """Finds a free place for a disc on the floor, or returns None."""
    for _ in range(20):
      place = rng.uniform(radius, size[:2] - radius)
      if all(np.hypot(*(place - p)) > radius + r for p, r in taken):
        taken.append((place, radius))
        return place
    return None

  _hang(pile, rng, size)
  for _ in range(rng.integers(1, 4)):
    add_cabinet(pile, rng, size, taken)
  for _ in range(rng.integers(1, 3)):
    if (place := free_place(0.8)) is not None:
      top = add_table(pile, rng, place)
      if rng.random() < 0.12:
        _add_ball(pile, rng, place, top)
  for _ in range(rng.integers(1, 4)):
    if (place := free_place(0.35)) is not None:
      add_chair(pile, rng, place)
  for _ in range(rng.integers(0, 3)):
    if (place := free_place(0.3)) is not None:
      radius, half = rng.uniform([0.12, 0.12], [0.28, 0.5])
      pile.begin("bin")
      pile.cylinder([*place, half], radius, half)
  if rng.random() < 0.2 and (place := free_place(0.25)) is not None:
    _add_ball(pile, rng, place, 0.0)

  geometry, materials, label, thing = pile.gather(size)
  return Room(
    geometry=geometry,
    materials=materials,
    label=np.where(_unlabelled(rng, thing), -1, label),
    thing=thing,
    light=size * rng.uniform([0.3, 0.3, 0.85], [0.7, 0.7, 0.95]),
    brightness=rng.uniform(0.7, 1.1),
    ambient=rng.uniform(0.3, 0.5),
    camera=camera,
  )


def _paint_faces(pile: Pile, rng: np.random.Generator) -> None:
  """Adds the faces of the room: four walls of one paint, floor and ceiling."""
  wall = pile.draw_material(rng.choice([PLAIN, PLAIN, NOISE, STRIPES]), pale=0.6)
  floor = pile.draw_material(rng.choice([CHECKER, STRIPES, NOISE]), pale=0.3)
  ceiling = pile.draw_material(rng.choice([PLAIN, NOISE]), pale=0.8)
  for face in range(NUM_FACES):
    name = {FLOOR: "floor", CEILING: "ceiling"}.get(face, "wall")
    material = {"floor": floor, "ceiling": ceiling, "wall": wall}[name]
    pile.face(name, material)


def _hang(pile: Pile, rng: np.random.Generator, size: np.ndarray) -> None:
  """Hangs a picture or, seldom, a window on some walls, at most one on each."""
  for wall in rng.permutation(4)[: rng.integers(2, 5)]:
    name = "window" if rng.random() < 0.25 else "picture"
    add_hung(pile, rng, name, int(wall), size)


def _add_ball(pile: Pile, rng: np.random.Generator, place, height: float) -> None:
  """Adds a ball that lies at a place on a surface of that height."""
  radius = rng.uniform(0.09, 0.2)
  pile.begin("ball")
  pile.sphere([*place, height + radius], radius)


def _camera(rng: np.random.Generator, size: np.ndarray) -> Camera:
  """Places a camera near a corner at eye level, looking across and a little down."""
  corner = rng.integers(0, 2, 2)
  inset = rng.uniform(0.35, 1.0, 2)
  ground = np.where(corner == 0, inset, size[:2] - inset)
  height = rng.uniform(1.2, 1.8)
  target = size[:2] * rng.uniform(0.35, 0.65, 2)
  heading = np.arctan2(*(target - ground)[::-1]) + rng.normal(0, 0.12)
  pitch, roll = np.radians(rng.uniform(4, 24)), np.radians(rng.normal(0, 1.5))
  forward = np.array(
    [
      np.cos(pitch) * np.cos(heading),
      np.cos(pitch) * np.sin(heading),
      -np.sin(pitch),
    ]
  )
  right = np.array([np.sin(heading), -np.cos(heading), 0.0])
  up = np.cross(right, forward)
  right = np.cos(roll) * right + np.sin(roll) * up
  axes = np.stack([right, np.cross(right, forward), -forward])
  return Camera(np.array([*ground, height]), axes)


def _unlabelled(rng: np.random.Generator, thing: np.ndarray) -> np.ndarray:
  """Marks the primitives of things without a label, [P], bool; never a face."""
  unnamed = rng.random(thing.max() + 1) < UNLABELLED
  return unnamed[thing] & (np.arange(len(thing)) >= NUM_FACES)
