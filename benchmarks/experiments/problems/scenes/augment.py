"""Zooms and mirrors an example at random, and changes the targets accordingly.

A zoom by s looks at a part 1/s as wide and high, magnified by s, with the same camera.
The surface point seen in a pixel then seems to be at depth Z / s, and, as its place in
the image is s times as far from the middle, at the same X and Y. So

* depth is divided by s, and *inverse* depth multiplied by it;
* surfaces are compressed by s along the optical axis, so that normals, which transform
  by the inverse transpose, have their z component multiplied by s and are brought to
  length 1 again.

The widely used public code for these data sets divides inverse depth too, and leaves
normals as they are. A crop that is off the middle also shears the surfaces, by an
amount that depends on the focal length; as that is not known, this is neglected.
"""

import numpy as np

SCALES = (1.0, 1.2, 1.5)


def augment(
  example: dict[str, np.ndarray],
  rng: np.random.Generator,
  inverse_depth: bool = False,
) -> dict[str, np.ndarray]:
  """Zooms an example by a random one of ``SCALES``, and mirrors it half of the time.

  Args:
    example: ``image`` [H, W, 3], ``label`` [H, W], ``depth`` [H, W] and, if there are
      any, ``normal`` [H, W, 3] in camera coordinates: x along the rows of the image, z
      along the optical axis. It is not changed.
    rng: Decides.
    inverse_depth: Whether ``depth`` is 1 / depth.
  """
  scale = rng.choice(SCALES)
  offset = rng.random(2)
  mirrored = rng.random() < 0.5
  example = zoom(example, scale, offset, inverse_depth)
  return mirror(example) if mirrored else example


def zoom(
  example: dict[str, np.ndarray],
  scale: float,
  offset=(0.5, 0.5),
  inverse_depth: bool = False,
) -> dict[str, np.ndarray]:
  """Cuts a part out of the example, at the resolution of the whole.

  Intensities are interpolated. All else is that of the nearest pixel: between a value
  and a missing one there is nothing.

  Args:
    example: As for :func:`augment`.
    scale: At least 1. The part is H / scale x W / scale pixels, or fractions of them.
    offset: [2], in [0, 1]. Where the part is: 0 is at the top (left), 1 at the bottom
      (right).
    inverse_depth: Whether ``depth`` is 1 / depth.
  """
  height, width = example["label"].shape
  rows = _sample_places(height, scale, offset[0])
  columns = _sample_places(width, scale, offset[1])
  nearest = np.ix_(np.rint(rows).astype(int), np.rint(columns).astype(int))
  factor = np.float32(scale)
  zoomed = {
    "image": _interpolate(_interpolate(example["image"], rows, 0), columns, 1),
    "label": example["label"][nearest],
    "depth": example["depth"][nearest] * (factor if inverse_depth else 1 / factor),
  }
  if "normal" in example:
    normal = example["normal"][nearest] * np.array([1, 1, scale], np.float32)
    length = np.linalg.norm(normal, axis=-1, keepdims=True)
    zoomed["normal"] = normal / np.where(length == 0, 1, length)
  return zoomed


def mirror(example: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Exchanges left and right, as in a mirror."""
  mirrored = {name: value[:, ::-1] for name, value in example.items()}
  if "normal" in example:
    mirrored["normal"] = mirrored["normal"] * np.array([-1, 1, 1], np.float32)
  return {name: np.ascontiguousarray(value) for name, value in mirrored.items()}


def _sample_places(size: int, scale: float, offset: float) -> np.ndarray:
  """Computes the middles of the new pixels along an axis, [size], in pixels."""
  start = offset * (size - size / scale)
  return (start + (np.arange(size) + 0.5) / scale - 0.5).clip(0, size - 1)


def _interpolate(image: np.ndarray, places: np.ndarray, axis: int) -> np.ndarray:
  """Interpolates linearly along one axis of an image [H, W, 3]."""
  below = np.floor(places).astype(int)
  above = np.minimum(below + 1, image.shape[axis] - 1)
  weight = (places - below).astype(np.float32)
  weight = np.expand_dims(weight, tuple(i for i in range(image.ndim) if i != axis))
  return image.take(below, axis) * (1 - weight) + image.take(above, axis) * weight
