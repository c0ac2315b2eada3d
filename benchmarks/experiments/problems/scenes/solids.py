"""Boxes, spheres and upright cylinders in a room, and where rays enter them.

World coordinates in metres: the room spans the box from the origin to its size, z is
up. Primitives are numbered in the order of ``Geometry``'s fields: six faces of the room
first (x = 0, x = size, y = 0, y = size, floor, ceiling), then the solids.
"""

from typing import NamedTuple

import numpy as np

NUM_FACES = 6
FLOOR, CEILING = 4, 5


class Geometry(NamedTuple):
  """A room and the B boxes, S spheres and C cylinders in it.

  Attributes:
    size: [3]. Width, length and height of the room.
    box_centre: [B, 3].
    box_half: [B, 3]. Half of each edge, before the box is turned.
    box_yaw: [B]. Radians by which the box is turned about the vertical.
    sphere_centre: [S, 3].
    sphere_radius: [S].
    cylinder_centre: [C, 3].
    cylinder_radius: [C].
    cylinder_half: [C]. Half of the height.
  """

  size: np.ndarray
  box_centre: np.ndarray
  box_half: np.ndarray
  box_yaw: np.ndarray
  sphere_centre: np.ndarray
  sphere_radius: np.ndarray
  cylinder_centre: np.ndarray
  cylinder_radius: np.ndarray
  cylinder_half: np.ndarray


def nearest_solid(geometry, origins, directions) -> tuple[np.ndarray, np.ndarray]:
  """Computes distances [R], infinite where none is hit, and the solids' numbers [R]."""
  # [3, 1, R]: NumPy reduces over a first axis much faster than over a last one.
  rays = origins.T[:, None], directions.T[:, None]
  entries = np.concatenate(
    [
      _enter_boxes(geometry, *rays),
      _enter_spheres(geometry, *rays),
      _enter_cylinders(geometry, *rays),
      np.full((1, len(directions)), np.inf),  # so that a room may be empty
    ]
  )
  nearest = entries.argmin(0)
  return entries[nearest, np.arange(len(directions))], nearest


def _enter_boxes(geometry, origins, directions) -> np.ndarray:
  """Computes the distance at which each ray enters each box, [B, R]."""
  shift = origins - geometry.box_centre.T[..., None]
  cosine, sine = np.cos(geometry.box_yaw)[:, None], np.sin(geometry.box_yaw)[:, None]
  first, last = -np.inf, np.inf
  for axis, weights in enumerate(((cosine, sine), (-sine, cosine), None)):
    if weights is None:
      origin, direction = shift[2], directions[2]
    else:
      origin = weights[0] * shift[0] + weights[1] * shift[1]
      direction = weights[0] * directions[0] + weights[1] * directions[1]
    inverse = 1 / without_zeros(direction)
    middle = -origin * inverse
    reach = geometry.box_half[:, axis, None] * np.abs(inverse)
    first = np.maximum(first, middle - reach)
    last = np.minimum(last, middle + reach)
  return _entry(first, last)


def _enter_spheres(geometry, origins, directions) -> np.ndarray:
  """Computes the distance at which each ray enters each sphere, [S, R]."""
  shift = origins - geometry.sphere_centre.T[..., None]
  return _entry(*_in_ball(shift, directions, geometry.sphere_radius[:, None]))


def _enter_cylinders(geometry, origins, directions) -> np.ndarray:
  """Computes the distance at which each ray enters each cylinder, [C, R]."""
  shift = origins - geometry.cylinder_centre.T[..., None]
  first, last = _in_ball(shift[:2], directions[:2], geometry.cylinder_radius[:, None])
  middle = -shift[2] / directions[2]
  reach = geometry.cylinder_half[:, None] / np.abs(directions[2])
  return _entry(np.maximum(first, middle - reach), np.minimum(last, middle + reach))


def _in_ball(shift, direction, radius) -> tuple[np.ndarray, np.ndarray]:
  """Computes where a ray enters and leaves a ball or disc; NaN where it misses it."""
  squared = (direction**2).sum(0)
  middle = -(shift * direction).sum(0) / squared
  inside = radius**2 - ((shift + middle * direction) ** 2).sum(0)
  reach = np.sqrt(np.where(inside < 0, np.nan, inside) / squared)
  return middle - reach, middle + reach


def _entry(first, last) -> np.ndarray:
  """Computes the distance at which a convex solid is entered; infinite if it is not."""
  return np.where((first < last) & (first > 0), first, np.inf)


def without_zeros(directions: np.ndarray) -> np.ndarray:
  """Replaces zeros in directions, so that one can divide by them."""
  return np.where(np.abs(directions) < 1e-12, 1e-12, directions)
