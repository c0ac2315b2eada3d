"""Checks augmented targets against the geometry that they describe."""

import chex
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.experiments.problems.scenes import synthetic
from benchmarks.experiments.problems.scenes.augment import SCALES, augment, mirror, zoom
from benchmarks.experiments.problems.scenes.rendering import pixel_rays

seeds = st.integers(0, 2**32 - 1)
offsets = st.tuples(st.floats(0, 1), st.floats(0, 1))


def room_example(seed, height=12, width=16):
  example = synthetic.example(seed, "train", 0, height, width)
  return {**example, "depth": example["depth"][..., 0]}


ROOMS = [room_example(seed) for seed in range(3)]
examples = st.sampled_from(ROOMS)


def plane(normal, distance, height=60, width=80):
  """Makes an example of a single plane, the points p with normal . p = -distance."""
  rays = pixel_rays(height, width).reshape(height, width, 3)
  normal = np.asarray(normal) / np.linalg.norm(normal)
  depth = -distance / (rays @ normal)
  assert (depth > 0).all()
  return {
    "image": np.zeros((height, width, 3), np.float32),
    "label": np.zeros((height, width), np.int32),
    "depth": depth.astype(np.float32),
    "normal": np.broadcast_to(normal.astype(np.float32), (height, width, 3)),
  }


def plane_of(depth):
  """Fits a plane to all back-projected points and returns its normal."""
  points = pixel_rays(*depth.shape) * depth.reshape(-1, 1)
  normal = -np.linalg.lstsq(points, np.ones(len(points)), rcond=None)[0]
  return normal / np.linalg.norm(normal)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("normal", [(0, 0, 1), (0.3, 0.8, 1), (-1, 0.2, 0.9)])
def test_zoomed_normals_agree_with_zoomed_depth(scale, inverse, normal):
  example = plane(normal, 2.0)
  if inverse:
    example["depth"] = 1 / example["depth"]
  zoomed = zoom(example, scale, inverse_depth=inverse)
  depth = 1 / zoomed["depth"] if inverse else zoomed["depth"]
  # Zooming takes depth from the nearest pixel, up to half a pixel away.
  np.testing.assert_allclose(
    zoomed["normal"], np.broadcast_to(plane_of(depth), (60, 80, 3)), atol=4e-3
  )
  if scale > 1 and normal != (0, 0, 1):  # differs from unchanged normals
    assert np.abs(zoomed["normal"] - example["normal"]).max() > 0.05


def test_zoom_divides_depth_and_multiplies_inverse_depth():
  wall = plane((0, 0, 1), 3.0)
  np.testing.assert_allclose(zoom(wall, 1.5)["depth"], 2.0, rtol=1e-6)
  np.testing.assert_allclose(
    zoom(wall, 1.5, inverse_depth=True)["depth"], 4.5, rtol=1e-6
  )


def test_mirrored_normals_agree_with_mirrored_depth():
  mirrored = mirror(plane((0.4, 0.7, 1), 2.0))
  np.testing.assert_allclose(
    mirrored["normal"][0, 0], plane_of(mirrored["depth"]), 1e-4
  )


@given(example=examples, offset=offsets)
def test_zoom_by_one_changes_nothing(example, offset):
  for name, value in zoom(example, 1.0, offset).items():
    np.testing.assert_allclose(value, example[name], rtol=1e-6, atol=1e-6)
    assert value.dtype == example[name].dtype


@given(example=examples)
def test_mirroring_twice_changes_nothing(example):
  chex.assert_trees_all_equal(mirror(mirror(example)), example)


@given(example=examples, seed=seeds)
def test_augmentation_never_blends_missing_values_and_keeps_its_input(example, seed):
  before = {name: value.copy() for name, value in example.items()}
  changed = augment(example, np.random.default_rng(seed))
  assert set(np.unique(changed["label"])) <= set(np.unique(example["label"]))
  length = np.linalg.norm(changed["normal"], axis=-1)
  np.testing.assert_allclose(length, changed["depth"] > 0, atol=1e-6)
  # Every depth is an original one, divided by one of the scales.
  near = [
    np.isclose(
      changed["depth"].reshape(-1, 1), example["depth"].reshape(1, -1) / s, rtol=1e-5
    ).any(1)
    for s in SCALES
  ]
  assert np.all(near, axis=1).any()
  assert changed["image"].min() >= example["image"].min() - 1e-6
  assert changed["image"].max() <= example["image"].max() + 1e-6
  for name, value in changed.items():
    np.testing.assert_array_equal(before[name], example[name])
    assert value.shape == example[name].shape
    assert value.dtype == example[name].dtype
    assert value.flags["C_CONTIGUOUS"]


@given(seed=seeds)
def test_augmentation_depends_only_on_the_generator(seed):
  one, other = (augment(ROOMS[0], np.random.default_rng(seed)) for _ in range(2))
  chex.assert_trees_all_equal(one, other)


def test_every_scale_occurs_with_and_without_mirroring():
  wall = plane((0.5, 0, 1), 3.0, 6, 8)
  found = set()
  for seed in range(60):
    changed = augment(wall, np.random.default_rng(seed))
    normal = changed["normal"][0, 0]
    found.add((round(float(normal[2] / abs(normal[0]) / 2), 3), normal[0] > 0))
  assert found == {(scale, side) for scale in SCALES for side in (True, False)}


def test_augmentation_adds_no_normals_to_examples_without():
  example = {name: value for name, value in ROOMS[0].items() if name != "normal"}
  assert set(augment(example, np.random.default_rng(0))) == {"image", "label", "depth"}
