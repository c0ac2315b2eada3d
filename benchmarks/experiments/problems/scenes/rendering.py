"""Renders a room with exact labels, depth and normals, and imitates sensors.

Camera coordinates: x to the right, y up, z back towards the viewer. Depth is measured
along the optical axis. Pixel (row i, column j) of an [H, W] picture looks along
(x, y, z) = ((j + 1/2 - W/2) / f, (H/2 - i - 1/2) / f, -1), with f = ``FOCAL`` W.
"""

from typing import NamedTuple

import numpy as np

from benchmarks.experiments.problems.scenes import ray_casting
from benchmarks.experiments.problems.scenes.rooms import Room
from benchmarks.experiments.problems.scenes.textures import albedo

FOCAL = 0.8  # in widths of the picture: 64 degrees from left to right
# Where the depth camera measures nothing: far away, at a glancing angle, on what is
# dark or reflects, and here and there.
MAX_DEPTH = 6.0  # metres
MIN_COSINE = 0.1
MIN_BRIGHTNESS = 0.06
MAX_GLOSS = 0.6
DROPOUT = 0.003
NOISE = 0.02  # standard deviation of the image's noise


class View(NamedTuple):
  """A noiseless, complete picture.

  Attributes:
    image: [H, W, 3], in [0, 1].
    label: [H, W], int. Number of the class; -1 where the thing has no label.
    depth: [H, W]. Metres.
    normal: [H, W, 3]. Unit vectors in camera coordinates, towards the camera.
    thing: [H, W], int. Pixels of one number show one thing.
    measurable: [H, W], bool. Whether a depth camera measures anything there.
  """

  image: np.ndarray
  label: np.ndarray
  depth: np.ndarray
  normal: np.ndarray
  thing: np.ndarray
  measurable: np.ndarray


def pixel_rays(height: int, width: int) -> np.ndarray:
  """Computes each pixel's direction, [H W, 3], of length 1 along the optical axis."""
  x = (np.arange(width) + 0.5 - width / 2) / (FOCAL * width)
  y = (height / 2 - np.arange(height) - 0.5) / (FOCAL * width)
  x, y = np.meshgrid(x, y)
  return np.stack([x, y, -np.ones_like(x)], -1).reshape(-1, 3)


def render(room: Room, height: int, width: int) -> View:
  """Renders what the room's camera sees, with one ray for each pixel."""
  rays = pixel_rays(height, width)
  directions = rays @ room.camera.axes
  hits = ray_casting.cast(room.geometry, room.camera.position, directions)
  image = _shade(room, hits, directions)
  # Both vectors point from the surface to the camera's side.
  cosine = -(hits.normal * directions).sum(1) / np.linalg.norm(directions, axis=1)
  measurable = (
    (hits.distance <= MAX_DEPTH)
    & (cosine >= MIN_COSINE)
    & (image.mean(1) >= MIN_BRIGHTNESS)
    & (room.materials.gloss[hits.primitive] <= MAX_GLOSS)
  )

  def picture(values: np.ndarray) -> np.ndarray:
    return values.reshape(height, width, *values.shape[1:])

  return View(
    image=picture(image),
    label=picture(room.label[hits.primitive]),
    depth=picture(hits.distance),
    normal=picture(hits.normal @ room.camera.axes.T),
    thing=picture(room.thing[hits.primitive]),
    measurable=picture(measurable),
  )


def sense(view: View, rng: np.random.Generator) -> dict[str, np.ndarray]:
  """Adds noise and gaps to a picture, as data sets have them.

  Returns:
    ``image`` [H, W, 3], ``label`` [H, W] with -1 along the edges of things and on
    things without a label, ``depth`` [H, W] and ``normal`` [H, W, 3], both 0 where
    missing.
  """
  image = view.image + NOISE * rng.standard_normal(view.image.shape)
  edge = np.zeros(view.thing.shape, bool)
  edge[:, :-1] |= view.thing[:, :-1] != view.thing[:, 1:]
  edge[:-1] |= view.thing[:-1] != view.thing[1:]
  measured = view.measurable & (rng.random(view.depth.shape) >= DROPOUT)
  return {
    "image": np.clip(image, 0, 1),
    "label": np.where(edge, -1, view.label),
    "depth": np.where(measured, view.depth, 0),
    "normal": np.where(measured[..., None], view.normal, 0),
  }


def _shade(room: Room, hits: ray_casting.Hits, directions: np.ndarray) -> np.ndarray:
  """Computes colours [R, 3] under ambient light, and the lamp where it is visible."""
  materials, primitive = room.materials, hits.primitive
  colour = albedo(materials, primitive, hits.local, hits.local_normal)
  to_light = room.light - hits.position
  distance = np.linalg.norm(to_light, axis=1)
  to_light /= np.maximum(distance, 1e-9)[:, None]
  lit = ray_casting.is_lit(room.geometry, hits, room.light)
  # Metres of fall-off are those of a lamp with a wide shade.
  strength = room.brightness * lit / (1 + (distance / 4) ** 2)
  lambert = strength * np.maximum((hits.normal * to_light).sum(1), 0)
  # More light comes from above than from below.
  ambient = room.ambient * (0.85 + 0.15 * hits.normal[:, 2])
  glow = materials.glow[primitive]
  light = (1 - glow) * (ambient + lambert) + glow

  view = directions / np.linalg.norm(directions, axis=1)[:, None]
  mirrored = view - 2 * (view * hits.normal).sum(1)[:, None] * hits.normal
  highlight = np.maximum((mirrored * to_light).sum(1), 0) ** 30
  highlight *= materials.gloss[primitive] * strength
  return np.clip(colour * light[:, None] + highlight[:, None], 0, 1)
