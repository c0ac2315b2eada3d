"""Tests the experiments' data: the contents of batches and the errors of bad files."""

import dataclasses
import json

import chex
import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.experiments import cli
from benchmarks.experiments.loading import hold_out, in_order, shuffled, stream
from benchmarks.experiments.metric import add
from benchmarks.experiments.problems.fashion import data as fashion
from benchmarks.experiments.problems.fashion.problem import FashionSettings
from benchmarks.experiments.problems.fashion.problem import make_problem as make_fashion
from benchmarks.experiments.problems.scenes import synthetic
from benchmarks.experiments.problems.scenes.problem import SceneSettings, reference
from benchmarks.experiments.problems.scenes.problem import make_problem as make_scenes
from benchmarks.experiments.problems.scm20d import problem as scm20d
from tests.helpers.experiments import random_images

# --- Fashion-MNIST ---


@pytest.fixture(scope="module")
def images():
  arrays = random_images()
  return fashion.Images(arrays["x_train"], arrays["y_train"])


@pytest.mark.parametrize("pool", [1, 3])
def test_canvas_overlays_two_images_by_their_maximum(pool, images):
  left, right = np.array([3, 7, 7]), np.array([5, 0, 7])
  found = fashion.canvases(images, left, right, pool)
  side = 36 // pool
  assert found["canvas"].shape == (3, side**2)
  assert found["canvas"].dtype == found["ink"].dtype == np.float32
  for n, (one, other) in enumerate(zip(left, right, strict=True)):
    upper, lower = images.image[one] / 255, images.image[other] / 255
    canvas = [[0.0] * 36 for _ in range(36)]
    for y in range(36):
      for x in range(36):
        if y < 28 and x < 28:
          canvas[y][x] = upper[y, x]
        if y >= 8 and x >= 8:
          canvas[y][x] = max(canvas[y][x], lower[y - 8, x - 8])
    cells = [
      np.mean([r[x : x + pool] for r in canvas[y : y + pool]])
      for y in range(0, 36, pool)
      for x in range(0, 36, pool)
    ]
    np.testing.assert_allclose(found["canvas"][n], cells, atol=1e-6)
    ink = sum(map(float, [*upper.flat, *lower.flat])) / (2 * 28 * 28)
    assert found["ink"][n] == pytest.approx(ink, abs=1e-6)
    assert found["left"][n] == images.label[one]
    assert found["right"][n] == images.label[other]


def test_random_pairs_depend_only_on_seed_and_step(images):
  one, other = (fashion.random_pairs(images, 6, 8, seed=3) for _ in range(2))
  for step in (5, 0, 10**9):
    chex.assert_trees_all_equal(one[step], other[step])
  assert len(one[0]["ink"]) == 8
  differs = fashion.random_pairs(images, 6, 8, seed=4)
  for batch in (one[1], differs[0]):
    assert (batch["canvas"] != one[0]["canvas"]).any()
  for step, batch in enumerate(stream(one, 2, 5), start=2):
    chex.assert_trees_all_equal(batch, other[step])


def test_fixed_pairs_are_reproducible_and_distinct(images):
  pairs = fashion.fixed_pairs(images, 6, 20)
  chex.assert_trees_all_equal(pairs, fashion.fixed_pairs(images, 6, 20))
  assert len(np.unique(pairs["canvas"], axis=0)) == 20


def test_no_image_is_in_two_splits(tmp_path):
  arrays = random_images()
  # Every image has its own uniform brightness, which two corners of a canvas show.
  for name, first in (("x_train", 1), ("x_test", 101)):
    number = len(arrays[name])
    brightness = np.arange(first, first + number, dtype=np.uint8)
    arrays[name][:] = brightness[:, None, None]
  path = tmp_path / "images.npz"
  np.savez(path, **arrays)
  settings = FashionSettings(
    data=path, validation=0.25, pool=2, evaluated_pairs=400, batch_size=50
  )
  problem = make_fashion(settings)

  def used(batches):
    corners = [np.asarray(batch["canvas"])[:, [0, -1]] for batch in batches]
    return set(np.rint(255 * np.concatenate(corners)).astype(int).flat)

  train = used([problem.train_batches(50, 0)[step] for step in range(20)])
  validation = used(problem.evaluation_batches("validation"))
  # Every image of a split occurs in some canvas, on the left or on the right.
  assert len(train) == 30
  assert len(validation) == 10
  assert train | validation == set(range(1, 41))
  assert used(problem.evaluation_batches("train")) == train
  assert used(problem.evaluation_batches("test")) == set(range(101, 121))
  everything = make_fashion(dataclasses.replace(settings, validation=0.0))
  assert not list(everything.evaluation_batches("validation"))


def test_pool_that_does_not_divide_the_canvas_is_rejected():
  with pytest.raises(ValueError, match="pool must be a divisor of 36, got 5"):
    FashionSettings(data="unused", pool=5)


def spoilt(**changes):
  arrays = random_images(4, 3) | changes
  return {name: array for name, array in arrays.items() if array is not None}


@pytest.mark.parametrize(
  ("arrays", "message"),
  [
    (spoilt(y_test=None), "lacks the array 'y_test'; it needs x_train, y_train"),
    (spoilt(x_train=np.zeros((4, 784), np.uint8)), r"x_train must be .*\(4, 784\)"),
    (spoilt(x_test=np.zeros((3, 28, 29), np.uint8)), r"x_test must be .*\(3, 28, 29\)"),
    (spoilt(y_train=np.zeros((4, 1), int)), r"y_train must be .*\(4, 1\)"),
    (spoilt(x_test=np.zeros((3, 28, 28))), "x_test must be uint8.*got float64"),
    (spoilt(y_train=np.zeros(5, int)), "one label per image.* and 5 labels"),
    (
      spoilt(x_train=np.zeros((0, 28, 28), np.uint8), y_train=np.zeros(0, int)),
      r"x_train must be uint8 .*\(0, 28, 28\)",
    ),
    (spoilt(y_test=np.array([0, 10, 9])), r"y_test must be in 0\.\.9, got 0 to 10"),
    (spoilt(y_train=np.array([0, -1, 9, 9])), r"y_train must be .*got -1 to 9"),
    (spoilt(x_train=np.array([{}])), "cannot be read"),
  ],
)
def test_archives_with_wrong_contents_are_rejected(arrays, message, tmp_path):
  path = tmp_path / "images.npz"
  np.savez(path, **arrays)
  with pytest.raises(ValueError, match=message) as raised:
    fashion.load(path)
  assert str(path) in str(raised.value)


def test_files_that_are_not_archives_are_rejected(tmp_path):
  np.savez_compressed(tmp_path / "whole", x_train=np.zeros((4, 28, 28), np.uint8))
  whole = (tmp_path / "whole.npz").read_bytes()
  np.save(tmp_path / "array.npy", np.zeros(3))
  contents = {
    "empty": b"",
    "text": b"hello",
    "cut": whole[:80],
    "damaged": whole[:60] + b"xxxxxx" + whole[66:],
    "array": (tmp_path / "array.npy").read_bytes(),
  }
  for name, content in contents.items():
    path = tmp_path / f"{name}.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{name}.npz cannot be read as an .npz file"):
      fashion.load(path)
  for path in (tmp_path, tmp_path / "nowhere"):
    with pytest.raises(ValueError, match=r"must be Fashion-MNIST as one \.npz file"):
      fashion.load(path)


# --- Rows of arrays ---


@given(st.data())
def test_an_epoch_has_no_row_twice_and_is_reproducible(draw):
  size = draw.draw(st.integers(1, 20), "rows")
  batch_size = draw.draw(st.integers(1, size), "batch size")
  seed = draw.draw(st.integers(0, 99), "seed")
  arrays = {"x": np.arange(size), "y": 10 * np.arange(size)}
  batches = shuffled(arrays, batch_size, seed)
  steps = size // batch_size
  epoch = draw.draw(st.integers(0, 10**6), "epoch")
  rows = [batches[epoch * steps + step] for step in range(steps)]
  seen = np.concatenate([batch["x"] for batch in rows])
  assert len(set(seen.tolist())) == len(seen) == steps * batch_size
  for batch in rows:
    np.testing.assert_array_equal(batch["y"], 10 * batch["x"])
  step = draw.draw(st.integers(0, steps - 1), "step")
  chex.assert_trees_all_equal(
    shuffled(arrays, batch_size, seed)[epoch * steps + step], rows[step]
  )


def test_order_of_rows_differs_by_epoch_and_seed():
  arrays = {"x": np.arange(50)}
  one, other = (shuffled(arrays, 50, seed) for seed in (0, 1))
  orders = [one[0]["x"], one[1]["x"], other[0]["x"]]
  assert len({tuple(order) for order in orders}) == 3


def test_stream_of_batches_can_start_at_any_step():
  batches = shuffled({"x": np.arange(7)}, 3, seed=0)
  whole = [batch["x"].tolist() for batch in stream(batches, 0, 6)]
  assert whole == [batches[step]["x"].tolist() for step in range(6)]
  assert [batch["x"].tolist() for batch in stream(batches, 3, 6)] == whole[3:]
  assert not list(stream(batches, 6, 6))


@given(st.integers(1, 20), st.integers(1, 25))
def test_unshuffled_batches_hold_all_rows_in_order(size, batch_size):
  batches = list(in_order({"x": np.arange(size)}, batch_size))
  assert np.concatenate([batch["x"] for batch in batches]).tolist() == [*range(size)]
  assert {len(batch["x"]) for batch in batches[:-1]} <= {batch_size}


# --- scm20d ---

ROWS, INPUTS, TARGETS = 40, 3, 16
# Not in alphabetical order, like the targets of the real data.
NAMES = [f"product{i}" for i in range(TARGETS, 0, -1)]


def table(values=None):
  if values is None:
    values = np.random.default_rng(0).normal(5, 3, (ROWS, INPUTS + TARGETS))
    values[:, 1] = 4  # a constant input
  names = [f"input{i}" for i in range(INPUTS)] + NAMES
  head = ["@relation prices", *(f"@attribute {name} numeric" for name in names)]
  rows = [",".join(map(repr, row)) for row in values.tolist()]
  return values, "\n".join([*head, "@data", *rows, ""])


def prices(tmp_path, values=None, **settings):
  path = tmp_path / "prices.arff"
  path.write_text(table(values)[1])
  options = {"validation": 0.25, "batch_size": 4} | settings
  return scm20d.make_problem(scm20d.TableSettings(data=path, **options))


def whole(problem, split):
  (batch,) = problem.evaluation_batches(split)
  return batch


def test_table_is_standardised_by_its_training_rows(tmp_path):
  values, _ = table()
  problem = prices(tmp_path)
  assert problem.num_train == 24
  assert problem.tasks == tuple(sorted(NAMES))
  train = whole(problem, "train")
  for name, array in train.items():
    np.testing.assert_allclose(array.mean(0), 0, atol=1e-5)
    expected = np.ones(array.shape[1])
    if name == "inputs":
      expected[1] = 0
    np.testing.assert_allclose(array.std(0), expected, rtol=1e-4)
  # Other rows have no influence on the training rows.
  others, test = hold_out(ROWS, 0.2, seed=0)
  kept, _ = hold_out(len(others), 0.25, seed=1)
  not_trained = np.setdiff1d(np.arange(ROWS), others[kept])
  changed = values.copy()
  changed[not_trained] *= 1000
  chex.assert_trees_all_equal(whole(prices(tmp_path, changed), "train"), train)
  mean, deviation = values[others[kept]].mean(0), values[others[kept]].std(0)
  expected = (values[test] - mean) / np.where(deviation > 0, deviation, 1)
  np.testing.assert_allclose(
    np.hstack([whole(problem, "test")[x] for x in ("inputs", "targets")]),
    expected,
    atol=1e-5,
  )
  sizes = [len(whole(problem, s)["inputs"]) for s in ("train", "validation", "test")]
  assert sizes == [24, 8, 8]
  assert not list(prices(tmp_path, validation=0.0).evaluation_batches("validation"))


def test_rrmse_is_100_for_the_training_mean_and_0_for_the_targets(tmp_path):
  problem = prices(tmp_path)
  columns = {name: NAMES.index(name) for name in problem.tasks}

  def rrmse(prediction):
    total = {}
    for batch in in_order(whole(problem, "test"), 3):
      outputs = {
        task: prediction(task, batch["targets"][:, [column]])
        for task, column in columns.items()
      }
      total = add(total, problem.sums(outputs, batch))
    found = problem.summarise(total)
    assert set(found) == {metric.name for metric in problem.metrics}
    return found

  mean = rrmse(lambda task, target: np.zeros_like(target))
  assert mean == pytest.approx(dict.fromkeys(NAMES, 100))
  half = rrmse(lambda task, target: target / 2)
  assert half == pytest.approx(dict.fromkeys(NAMES, 50))
  # Tasks find their columns although only the tasks are sorted.
  one = rrmse(lambda task, target: target * (task == "product9"))
  assert one == pytest.approx(dict.fromkeys(NAMES, 100) | {"product9": 0})


def test_predicting_the_mean_gives_losses_of_1_and_indicators_of_0(tmp_path):
  problem = prices(tmp_path)
  batch = whole(problem, "train")
  nothing = {task: np.zeros((24, 1), np.float32) for task in problem.tasks}
  losses, kpis = problem.losses(nothing, batch), problem.kpis(nothing, batch)
  assert losses == pytest.approx(dict.fromkeys(NAMES, 1), rel=1e-4)
  assert kpis == pytest.approx(dict.fromkeys(NAMES, 0), abs=1e-4)


TEXT = table()[1]
HEAD, _, BODY = TEXT.partition("@data\n")
CANNOT = "cannot be read as an .arff file"


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("", CANNOT),
    ("hello\nworld\n", CANNOT),
    (HEAD, CANNOT),
    (TEXT + "1,2\n", CANNOT),
    (TEXT.replace(BODY, "x" + BODY), CANNOT),
    (TEXT.replace("input0 numeric", "input0 string"), CANNOT),
    (HEAD + "@data\n", "must have rows"),
    (TEXT + ",".join("?" * (INPUTS + TARGETS)) + "\n", "without missing values"),
    (
      HEAD.replace("input0 numeric", "input0 {yes,no}") + "@data\n",
      "all numeric, got 19 columns of nominal, numeric",
    ),
    ("@relation x\n@attribute a numeric\n@data\n1\n", "16 targets.* got 1 columns"),
  ],
)
def test_tables_with_wrong_contents_are_rejected(text, message, tmp_path):
  path = tmp_path / "prices.arff"
  path.write_text(text)
  with pytest.raises(ValueError, match=message) as raised:
    scm20d.load(path)
  assert str(path) in str(raised.value)


def test_missing_files_and_too_few_rows_are_rejected(tmp_path):
  for path in (tmp_path, tmp_path / "nowhere.arff"):
    with pytest.raises(ValueError, match=r"must be scm20d as an \.arff file"):
      scm20d.load(path)
  with pytest.raises(ValueError, match="at least 2"):
    prices(tmp_path, table()[0][:1])


# --- Scenes ---


def write_scenes(directory, label, train=(4, 6), val=(4, 6)):
  """Writes two training scenes and one for validation in the layout of a data set."""
  random = np.random.default_rng(0)
  for split, size, number in (("train", train, 2), ("val", val, 1)):
    normal = random.normal(size=(*size, 3))
    values = {
      "image": random.random((*size, 3)),
      label: random.integers(-1, 7, size),
      "depth": random.random((*size, 1)),
      "normal": normal / np.linalg.norm(normal, axis=-1, keepdims=True),
    }
    if label == "label_7":
      del values["normal"]
    for name, value in values.items():
      (directory / split / name).mkdir(parents=True)
      for index in range(number):
        np.save(directory / split / name / f"{index}.npy", value)
  return directory


@pytest.mark.parametrize(
  ("label", "batch_size", "microbatches", "epochs"),
  [("label", 2, 1, 100), ("label_7", 128, 8, 200)],
)
def test_scene_settings_and_metrics_are_those_of_the_paper(
  label, batch_size, microbatches, epochs, tmp_path
):
  data = write_scenes(tmp_path, label)
  settings = SceneSettings(data=data, filters=(4,), validation=0.0)
  found = settings.batch_size, settings.microbatches, settings.epochs
  assert found == (batch_size, microbatches, epochs)
  chosen = SceneSettings(data=data, batch_size=6, microbatches=3, epochs=7)
  assert (chosen.batch_size, chosen.microbatches, chosen.epochs) == (6, 3, 7)
  problem = make_scenes(settings)
  assert problem.num_train == 2
  with_normals = label == "label"
  assert ("normal" in problem.tasks) == with_normals
  assert list(problem.tasks) == sorted(problem.tasks)
  published = reference(settings)
  assert ("NYUv2" if with_normals else "Cityscapes") in published.title
  shown = {metric.name for metric in problem.metrics if metric.shown}
  for name, row in published.rows.items():
    assert set(row) == shown, name
  assert {metric.task for metric in problem.metrics} == set(problem.tasks)
  batch = next(iter(problem.evaluation_batches("test")))
  assert len(batch["image"]) == batch_size // microbatches
  assert not list(problem.evaluation_batches("validation"))


def test_scenes_of_unsuitable_size_and_invalid_filters_are_rejected(tmp_path):
  data = write_scenes(tmp_path / "odd", "label")
  with pytest.raises(ValueError, match=r"2 stages .* 4 must divide .*got 4x6.*fewer"):
    make_scenes(SceneSettings(data=data, filters=(4, 4)))
  data = write_scenes(tmp_path / "sizes", "label", val=(6, 4))
  with pytest.raises(ValueError, match="of one size, got 4x6 and 6x4"):
    make_scenes(SceneSettings(data=data, filters=(4,)))
  for filters in ((), (4, 0)):
    with pytest.raises(ValueError, match="filters must be positive"):
      SceneSettings(data=data, filters=filters)
  with pytest.raises(ValueError, match="must have a folder `label`"):
    SceneSettings(data=tmp_path / "nowhere")


@pytest.mark.thorough
@pytest.mark.usefixtures("quick_experiments")
def test_scenes_can_be_trained_from_the_command_line(tmp_path, capsys):
  data, out = tmp_path / "rooms", tmp_path / "out"
  synthetic.write(data, 2, 1, 8, 8)
  arguments = ["train", "--data", data, "--out", out, "--filters", "4", "--epochs", "1"]
  arguments += ["--method", "dwa", "--augment", "--validation", "0"]
  cli.main(
    "benchmarks.experiments scenes",
    SceneSettings,
    make_scenes,
    reference,
    [*map(str, arguments)],
  )
  result = json.loads((out / "result.json").read_text())
  assert result["identity"]["filters"] == [4]
  assert "synthetic" in result["identity"]["problem"]
  assert len(result["history"]) == 1
  values = jax.tree.leaves([result["last"], result["history"][0]["loss"]])
  assert len(values) == 9 + 3
  assert np.isfinite(values).all()
  assert "segmentation mIoU %" in capsys.readouterr().out
