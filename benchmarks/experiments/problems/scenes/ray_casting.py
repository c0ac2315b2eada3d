"""Finds where rays hit a room's surfaces, and whether light gets there."""

from typing import NamedTuple

import numpy as np

from benchmarks.experiments.problems.scenes.solids import (
  NUM_FACES,
  Geometry,
  nearest_solid,
  without_zeros,
)

# Rays at a time: the [solids, rays] distances of so many fit into the cache.
CHUNK = 4_096
# A shadow ray starts so far above its surface, in metres, that it misses it.
LIFT = 1e-4


class Hits(NamedTuple):
  """Where R rays end.

  Attributes:
    distance: [R]. In lengths of the ray's direction.
    primitive: [R], int. Number of the primitive that is met.
    position: [R, 3].
    normal: [R, 3]. Unit vectors out of the surface, towards the ray's origin.
    local: [R, 3]. The position in the primitive's own coordinates.
    local_normal: [R, 3]. The normal in them.
  """

  distance: np.ndarray
  primitive: np.ndarray
  position: np.ndarray
  normal: np.ndarray
  local: np.ndarray
  local_normal: np.ndarray


def cast(geometry: Geometry, origin: np.ndarray, directions: np.ndarray) -> Hits:
  """Finds what rays from inside the room, outside of all solids, hit first.

  Args:
    geometry: The room.
    origin: [3] or [R, 3].
    directions: [R, 3], of any length but 0.
  """
  directions = without_zeros(directions)
  origins = np.broadcast_to(origin, directions.shape)
  distance, solid = _in_chunks(nearest_solid, geometry, origins, directions)
  # A ray leaves the room through the first face that it reaches from within.
  bound = np.where(directions > 0, geometry.size, 0.0)
  to_face = (bound - origins) / directions
  axis = to_face.argmin(1)
  rows = np.arange(len(directions))
  behind = distance <= to_face[rows, axis]
  face = 2 * axis + (directions[rows, axis] > 0)
  distance = np.where(behind, distance, to_face[rows, axis])
  primitive = np.where(behind, NUM_FACES + solid, face)
  position = origins + distance[:, None] * directions
  return Hits(distance, primitive, position, *_surface(geometry, primitive, position))


def is_lit(geometry: Geometry, hits: Hits, light: np.ndarray) -> np.ndarray:
  """Says for R rays whether no solid is between their ends and a light, [3]."""
  start = hits.position + LIFT * hits.normal
  distance, _ = _in_chunks(nearest_solid, geometry, start, without_zeros(light - start))
  return distance >= 1


def _in_chunks(function, geometry, origins, directions):
  """Applies ``function`` to all rays, a chunk at a time."""
  parts = [
    function(geometry, origins[i : i + CHUNK], directions[i : i + CHUNK])
    for i in range(0, len(directions), CHUNK)
  ]
  return tuple(np.concatenate(part) for part in zip(*parts, strict=True))


def _surface(geometry, primitive, position):
  """Computes normals on primitives; returns both in their coordinates as well."""
  local, normal = position.copy(), np.zeros_like(position)
  yaw = np.zeros(len(position))
  face = primitive < NUM_FACES
  normal[face, primitive[face] // 2] = 1.0 - 2.0 * (primitive[face] % 2)
  number = primitive - NUM_FACES

  box = ~face & (number < len(geometry.box_yaw))
  index = number[box]
  yaw[box] = geometry.box_yaw[index]
  local[box] = _turn(position[box] - geometry.box_centre[index], -yaw[box])
  # The pair of faces whose planes are nearest to the position.
  axis = (np.abs(local[box]) - geometry.box_half[index]).argmax(1)
  normal[np.flatnonzero(box), axis] = np.sign(local[box, axis])
  number = number - len(geometry.box_yaw)

  sphere = (number >= 0) & (number < len(geometry.sphere_radius))
  local[sphere] -= geometry.sphere_centre[number[sphere]]
  normal[sphere] = local[sphere] / geometry.sphere_radius[number[sphere], None]
  number = number - len(geometry.sphere_radius)

  cylinder = number >= 0
  index = number[cylinder]
  local[cylinder] -= geometry.cylinder_centre[index]
  across, height = local[cylinder, :2], local[cylinder, 2]
  radius = np.hypot(*across.T)
  on_cap = np.abs(height) - geometry.cylinder_half[index] > (
    radius - geometry.cylinder_radius[index]
  )
  side = np.c_[across / np.maximum(radius, 1e-9)[:, None], np.zeros(len(radius))]
  cap = np.c_[np.zeros_like(across), np.sign(height)]
  normal[cylinder] = np.where(on_cap[:, None], cap, side)
  return _turn(normal, yaw), local, normal


def _turn(vectors: np.ndarray, yaw: np.ndarray) -> np.ndarray:
  """Turns vectors [R, 3] about the vertical by angles [R]."""
  x, y, z = vectors.T
  cosine, sine = np.cos(yaw), np.sin(yaw)
  return np.stack([cosine * x - sine * y, sine * x + cosine * y, z], 1)
