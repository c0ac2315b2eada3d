"""Computes patterns of surfaces from the place on the surface."""

from typing import NamedTuple

import numpy as np

PLAIN, CHECKER, STRIPES, NOISE = range(4)


class Materials(NamedTuple):
  """The materials of P primitives.

  Attributes:
    pattern: [P], int. ``PLAIN``, ``CHECKER``, ``STRIPES`` or ``NOISE``.
    colours: [P, 2, 3]. The two colours that the pattern mixes, in [0, 1].
    period: [P]. Size of the pattern in metres.
    glow: [P]. Share of the light that comes from the surface itself, in [0, 1].
    gloss: [P]. Brightness of the lamp's reflection, in [0, 1].
  """

  pattern: np.ndarray
  colours: np.ndarray
  period: np.ndarray
  glow: np.ndarray
  gloss: np.ndarray


def albedo(
  materials: Materials, primitive: np.ndarray, local: np.ndarray, normal: np.ndarray
) -> np.ndarray:
  """Computes the colours [R, 3] of surfaces at R places.

  Args:
    materials: Materials of all primitives.
    primitive: [R], int. The primitive of each place.
    local: [R, 3]. Places in the primitive's coordinates, metres.
    normal: [R, 3]. Normals in the primitive's coordinates.
  """
  # A face is patterned in its own plane: across it, rounding would flip a checker.
  place = np.where(np.abs(normal) > 0.99, 0.25, local)
  place = place / materials.period[primitive, None]
  pattern = materials.pattern[primitive]
  mix = np.zeros(len(place))
  checker, stripes, noise = (pattern == p for p in (CHECKER, STRIPES, NOISE))
  mix[checker] = np.floor(place[checker]).sum(1) % 2
  # The first axis that lies in the face; wavy, as wood is.
  along = np.where(np.abs(normal[stripes, 0]) > 0.99, 1, 0)
  across = np.take_along_axis(place[stripes], along[:, None], 1)[:, 0]
  wavy = across + 0.3 * value_noise(place[stripes] * 0.7)
  mix[stripes] = 0.5 + 0.5 * np.sin(2 * np.pi * wavy)
  mix[noise] = 0.65 * value_noise(place[noise]) + 0.35 * value_noise(3 * place[noise])
  first, second = materials.colours[primitive].transpose(1, 0, 2)
  return first + mix[:, None] * (second - first)


def value_noise(place: np.ndarray) -> np.ndarray:
  """Computes smooth noise [R] in [0, 1], random at each integer point."""
  corner = np.floor(place).T
  fraction = place.T - corner
  weight = fraction**2 * (3 - 2 * fraction)
  shares = 1 - weight, weight
  corner = corner.astype(np.int64).astype(np.uint64)
  total = np.zeros(len(place))
  for x, y, z in np.ndindex(2, 2, 2):
    share = shares[x][0] * shares[y][1] * shares[z][2]
    total += share * _lattice_value(corner[0] + x, corner[1] + y, corner[2] + z)
  return total


def _lattice_value(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
  """Computes a fixed pseudorandom number in [0, 1) for each integer point, [R]."""
  # Odd factors without a pattern in their bits; the products wrap around.
  key = x * 0x9E3779B97F4A7C15 + y * 0xC2B2AE3D27D4EB4F + z * 0x165667B19E3779F9
  key = (key ^ (key >> 29)) * 0xBF58476D1CE4E5B9
  key ^= key >> 32
  return (key & 0xFFFFFF).astype(float) / 2**24
