"""Compares rendered rooms with geometry that can be computed by hand."""

import chex
import numpy as np
import pytest

from benchmarks.experiments.problems.scenes import synthetic
from benchmarks.experiments.problems.scenes.furniture import CLASSES
from benchmarks.experiments.problems.scenes.ray_casting import Geometry, cast, is_lit
from benchmarks.experiments.problems.scenes.rendering import pixel_rays, render, sense
from benchmarks.experiments.problems.scenes.solids import CEILING, FLOOR, NUM_FACES

NONE = np.zeros((0, 3)), np.zeros(0), np.zeros(0)
EMPTY = Geometry(
  np.array([4.0, 5.0, 3.0]),
  *(NONE[0], NONE[0], NONE[1], NONE[0], NONE[1], NONE[0], NONE[1], NONE[2]),
)
BALL = EMPTY._replace(
  sphere_centre=np.array([[2.0, 3.0, 1.0]]), sphere_radius=np.array([0.5])
)
EYE = np.array([2.0, 1.0, 1.0])


@pytest.fixture(scope="module")
def rooms():
  return [synthetic.room(0, "train", i) for i in range(6)]


def finite_difference_normals(depth):
  """Returns the normals of the back-projected depth, [H - 2, W - 2, 3]."""
  points = pixel_rays(*depth.shape).reshape(*depth.shape, 3)
  points = points * depth[..., None]
  right = points[1:-1, 2:] - points[1:-1, :-2]
  up = points[:-2, 1:-1] - points[2:, 1:-1]
  normal = np.cross(right, up)
  return normal / np.linalg.norm(normal, axis=-1, keepdims=True)


def flat_interior(label, normal):
  """Finds the pixels with a flat 3 x 3 neighbourhood, bool [H - 2, W - 2]."""
  shifts = [(i, j) for i in range(3) for j in range(3)]
  height, width = label.shape
  views = [np.s_[i : height - 2 + i, j : width - 2 + j] for i, j in shifts]
  middle = np.s_[1:-1, 1:-1]
  return np.all(
    [
      np.isclose(normal[view], normal[middle], atol=1e-9).all(-1)
      & (label[view] == label[middle])
      for view in views
    ],
    axis=0,
  )


def test_rays_end_at_the_walls_of_an_empty_room():
  directions = np.array(
    [[0, 2, 0], [0, -1, 0], [-1, 0, 0], [1, 0, 0], [0, 0, -1], [0, 0, 1]], float
  )
  hits = cast(EMPTY, EYE, directions)
  np.testing.assert_allclose(hits.distance, [2, 1, 2, 2, 1, 2])
  np.testing.assert_array_equal(hits.primitive, [3, 2, 0, 1, FLOOR, CEILING])
  np.testing.assert_allclose(hits.normal, -np.sign(directions))


def test_distance_to_and_normal_of_a_sphere_are_exact():
  offset = 0.3  # metres beside the sphere's centre
  hits = cast(BALL, EYE + np.array([offset, 0, 0]), np.array([[0.0, 1, 0], [0, -1, 0]]))
  depth = np.sqrt(0.5**2 - offset**2)
  np.testing.assert_allclose(hits.distance, [2 - depth, 1])
  np.testing.assert_allclose(hits.normal[0], [offset / 0.5, -depth / 0.5, 0], atol=1e-9)


def test_distances_to_and_normals_of_a_turned_box_and_a_cylinder_are_exact():
  solids = EMPTY._replace(
    box_centre=np.array([[2.0, 3.0, 1.0]]),
    box_half=np.array([[0.5, 0.5, 0.2]]),
    box_yaw=np.array([np.pi / 4]),
    cylinder_centre=np.array([[0.5, 3.0, 0.4]]),
    cylinder_radius=np.array([0.3]),
    cylinder_half=np.array([0.4]),
  )
  # The turned box shows an edge; the ray hits a face at 45 degrees beside it.
  hits = cast(solids, EYE + np.array([0.1, 0, 0]), np.array([[0.0, 1, 0]]))
  np.testing.assert_allclose(hits.distance, [2 - np.sqrt(0.5) + 0.1])
  np.testing.assert_allclose(hits.normal, [[np.sqrt(0.5), -np.sqrt(0.5), 0]])
  side = cast(solids, np.array([0.5, 1, 0.4]), np.array([[0.0, 1, 0]]))
  np.testing.assert_allclose(side.distance, [1.7])
  np.testing.assert_allclose(side.normal, [[0, -1, 0]], atol=1e-9)
  top = cast(solids, np.array([0.6, 3.1, 2.0]), np.array([[0.0, 0, -1]]))
  np.testing.assert_allclose(top.distance, [1.2])
  np.testing.assert_allclose(top.normal, [[0, 0, 1]])


def test_shadow_of_a_ball_is_a_disc_below_the_lamp():
  light = np.array([2.0, 3.0, 2.5])
  start = np.stack([np.linspace(0.1, 3.9, 200), np.full(200, 3.0)], 1)
  down = np.tile([0.0, 0, -1], (200, 1))
  origins = np.c_[start, np.full(200, 0.01)]
  floor = cast(BALL, origins, down)
  # The tangent cone starts at the lamp, 1.5 above the centre and 2.5 above the floor.
  radius = 2.5 * np.tan(np.arcsin(0.5 / 1.5))
  distance = np.abs(start[:, 0] - 2)
  np.testing.assert_array_equal(is_lit(BALL, floor, light), distance > radius)


def test_rendered_normals_agree_with_rendered_depth(rooms):
  checked = 0
  for room in rooms:
    view = render(room, 36, 48)
    flat = flat_interior(view.thing, view.normal)
    found = finite_difference_normals(view.depth)
    # A step between two parallel faces of one object also counts as flat.
    agree = np.isclose(found, view.normal[1:-1, 1:-1], atol=1e-6).all(-1)[flat]
    assert agree.mean() > 0.98
    checked += flat.sum()
    np.testing.assert_allclose(np.linalg.norm(view.normal, axis=-1), 1)
    towards = (view.normal * pixel_rays(36, 48).reshape(36, 48, 3)).sum(-1)
    assert (towards < 0).all()
  assert checked > 3_000


def test_lower_resolution_samples_the_pixels_of_a_higher_one(rooms):
  for room in rooms[:2]:
    coarse, fine = render(room, 12, 16), render(room, 36, 48)
    for one, other in zip(coarse, fine, strict=True):
      np.testing.assert_allclose(one, other[1::3, 1::3], atol=1e-9)


def test_sensed_values_are_correct_or_missing(rooms):
  void = missing = 0
  for room in rooms:
    view = render(room, 36, 48)
    sensed = sense(view, np.random.default_rng(0))
    labelled = sensed["label"] >= 0
    np.testing.assert_array_equal(sensed["label"][labelled], view.label[labelled])
    measured = sensed["depth"] > 0
    np.testing.assert_array_equal(sensed["depth"][measured], view.depth[measured])
    np.testing.assert_array_equal((sensed["normal"] != 0).any(-1), measured)
    assert not (measured & ~view.measurable).any()
    assert abs((sensed["image"] - view.image).std() - 0.02) < 0.005
    void, missing = void + (~labelled).mean(), missing + (~measured).mean()
  assert 0.01 < void / len(rooms) < 0.3
  assert 0.003 < missing / len(rooms) < 0.4


def test_every_class_occurs_and_balls_and_windows_only_in_some_rooms():
  count = np.zeros(len(CLASSES))
  for i in range(60):
    room = synthetic.room(1, "train", i)
    assert (room.label[:NUM_FACES] >= 0).all()
    label = render(room, 12, 16).label
    count += [(label == c).any() for c in range(len(CLASSES))]
  shares = dict(zip(CLASSES, count / 60, strict=True))
  assert min(shares.values()) > 0
  assert shares["ball"] < 0.3
  assert shares["window"] < 0.5
  assert shares["floor"] > 0.9


def test_examples_depend_only_on_seed_split_and_index():
  first = synthetic.example(0, "train", 3, 6, 8)
  chex.assert_trees_all_equal(synthetic.example(0, "train", 3, 6, 8), first)
  for other in ((1, "train", 3), (0, "val", 3), (0, "train", 4)):
    image = synthetic.example(*other, 6, 8)["image"]
    assert np.abs(image - first["image"]).max() > 0.1
