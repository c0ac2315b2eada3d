"""Tests that folders of scenes are written, read and checked for faults."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import chex
import numpy as np
import pytest

from benchmarks.experiments.problems.scenes import synthetic
from benchmarks.experiments.problems.scenes.checking import Size, check
from benchmarks.experiments.problems.scenes.folder import (
  CITYSCAPES,
  NYUV2,
  Scenes,
  find_layout,
)
from benchmarks.experiments.problems.scenes.furniture import CLASSES
from benchmarks.experiments.problems.scenes.show import write_picture

ROOT = Path(__file__).parent.parent.parent
HEIGHT, WIDTH = 6, 8


@pytest.fixture(scope="module")
def written(tmp_path_factory):
  directory = tmp_path_factory.mktemp("data") / "rooms"
  synthetic.write(directory, 3, 2, HEIGHT, WIDTH, seed=5)
  return directory


@pytest.fixture
def folder(written, tmp_path):
  """Copies the written folder, so that a test may damage it."""
  return Path(shutil.copytree(written, tmp_path / "rooms"))


@pytest.fixture(scope="module")
def cityscapes(tmp_path_factory):
  directory = tmp_path_factory.mktemp("cityscapes")
  rng = np.random.default_rng(0)
  for split in ("train", "val"):
    values = {
      "image": rng.random((4, 6, 3)),
      "label_7": rng.integers(-1, 7, (4, 6)).astype(float),
      "depth": rng.random((4, 6, 1)),
    }
    for name, value in values.items():
      (directory / split / name).mkdir(parents=True)
      np.save(directory / split / name / "0.npy", value)
  return directory


def test_written_scenes_are_read_back_unchanged(written):
  assert check(written, "train") == Size(3, HEIGHT, WIDTH)
  assert check(written, "val", contents=False) == Size(2, HEIGHT, WIDTH)
  scenes = Scenes(written, "train")
  assert len(scenes) == 3
  assert scenes.layout == NYUV2._replace(
    name="synthetic", num_classes=len(CLASSES), classes=CLASSES
  )
  for i in range(3):
    expected = synthetic.example(5, "train", i, HEIGHT, WIDTH)
    expected["depth"] = expected["depth"][..., 0]
    assert list(scenes[i]) == list(expected)
    for name, value in scenes[i].items():
      np.testing.assert_array_equal(value, expected[name])
      assert value.dtype == (np.int32 if name == "label" else np.float32)


def test_selected_examples_are_read_from_disk_and_from_memory(written):
  whole = Scenes(written, "train")
  for in_memory in (False, True):
    part = Scenes(written, "train", indices=[2, 0], in_memory=in_memory)
    assert len(part) == 2
    for number, index in enumerate((2, 0)):
      chex.assert_trees_all_equal(part[number], whole[index])


def test_layouts_of_cityscapes_and_nyuv2_are_recognised_by_their_label_folder(
  cityscapes, folder
):
  assert find_layout(cityscapes) == CITYSCAPES
  assert check(cityscapes, "train") == Size(1, 4, 6)
  example = Scenes(cityscapes, "val")[0]
  assert list(example) == ["image", "label", "depth"]
  assert example["label"].dtype == np.int32
  assert {v.shape for n, v in example.items() if n != "image"} == {(4, 6)}
  (folder / "scenes.json").unlink()
  assert find_layout(folder) == NYUV2


def test_intensities_out_of_range_by_rounding_are_clipped(folder):
  path = folder / "train/image/1.npy"
  image = np.load(path).astype(np.float64)
  image[0, 0] = 1.0005, -0.0005, 0.5
  np.save(path, image)
  check(folder, "train")
  np.testing.assert_array_equal(
    Scenes(folder, "train")[1]["image"][0, 0], [1.0, 0.0, 0.5]
  )


def remove_folder(path):
  shutil.rmtree(path.parent)


def remove_files(path):
  for file in path.parent.glob("*.npy"):
    file.unlink()


def remove_last(path):
  path.with_name("2.npy").unlink()


def renumber(path):
  path.rename(path.with_name("7.npy"))


def truncate(path):
  path.write_bytes(path.read_bytes()[:-10])


def scribble(path):
  path.write_text("<html>404</html>")


def archive(path):
  with path.open("wb") as file:
    np.savez(file, path.name)


def cut_channels(path):
  np.save(path, np.load(path)[..., 0])


def cut_rows(path):
  np.save(path, np.load(path)[1:])


def as_objects(path):
  np.save(path, np.load(path).astype(object))


def as_bytes(path):
  np.save(path, (255 * np.load(path)).astype(np.uint8))


def put(value):
  def fault(path):
    values = np.load(path).astype(np.float64)
    values[-1, -1] = value
    np.save(path, values)

  return fault


@pytest.mark.parametrize(
  ("folder_name", "fault", "message"),
  [
    ("depth", remove_folder, "train/depth must be a folder, got none. synthetic needs"),
    ("depth", remove_files, r"train/depth must hold 0.npy, 1.npy, ..., got no such"),
    ("normal", remove_last, "as many files in every folder, got 3 in `image`"),
    ("label", renumber, "numbered 0 to 2 without gaps, got none named 1.npy"),
    ("image", truncate, "image/1.npy must be a whole .npy file"),
    ("label", scribble, "label/1.npy must be a whole .npy file"),
    ("label", archive, "label/1.npy must be a whole .npy file"),
    ("depth", as_objects, "depth/1.npy must be a whole .npy file of numbers"),
    ("image", cut_channels, r"have the shape \[H, W, 3\], got \[6, 8\]"),
    ("depth", cut_channels, r"have the shape \[H, W, 1\], got \[6, 8\]"),
    ("label", cut_channels, r"have the shape \[H, W\], got \[6\]"),
    ("normal", cut_rows, r"height and width of .*0.npy, \(6, 8\), got \(5, 8\)"),
    ("image", as_bytes, "image/1.npy must hold floats, got uint8. Convert"),
  ],
)
@pytest.mark.parametrize("contents", [True, False])
def test_damaged_or_missing_files_are_rejected(
  folder, folder_name, fault, message, contents
):
  fault(folder / "train" / folder_name / "1.npy")
  with pytest.raises(ValueError, match=message):
    check(folder, "train", contents)
  check(folder, "val", contents)


@pytest.mark.parametrize(
  ("folder_name", "value", "message"),
  [
    ("label", 10, "hold labels 0 to 9 of synthetic, or -1 for void, got 10. Map"),
    ("label", -2, "or -1 for void, got -2"),
    ("label", 1.5, "or -1 for void, got 1.5"),
    ("image", 1.1, r"image/1.npy must be in \[0, 1\], got values from .* to 1.1"),
    ("image", -0.1, r"must be in \[0, 1\], got values from -0.1"),
    ("image", np.nan, "must be finite, .*, got 3 NaN or infinite values"),
    ("depth", np.inf, "must be finite, .*, got 1 NaN or infinite values"),
    ("depth", -1, "must be positive, or 0 where missing, got -1. Set"),
    ("normal", 1, "vectors of length 1, or 0 where missing, got a length of 1.73"),
  ],
)
def test_invalid_values_in_files_are_rejected(folder, folder_name, value, message):
  put(value)(folder / "train" / folder_name / "1.npy")
  check(folder, "train", contents=False)
  with pytest.raises(ValueError, match=message):
    check(folder, "train")


def test_folder_without_data_is_rejected(tmp_path):
  with pytest.raises(ValueError, match=r"train must have .*, got no such folder"):
    check(tmp_path / "none", "train")
  (tmp_path / "train/images").mkdir(parents=True)
  with pytest.raises(ValueError, match=r"got `images`\. Give the folder"):
    check(tmp_path, "train")


def test_interrupted_writing_leaves_no_files(tmp_path, monkeypatch):
  def fail(*_):
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(synthetic, "example", fail)
    with pytest.raises(KeyboardInterrupt):
      synthetic.write(tmp_path / "rooms", 2, 1, 6, 8)
  assert list(tmp_path.iterdir()) == []


def test_existing_data_are_reused_only_if_their_settings_match(folder, monkeypatch):
  monkeypatch.setattr(synthetic, "example", None)  # nothing is rendered again
  synthetic.write(folder, 3, 2, HEIGHT, WIDTH, seed=5)
  with pytest.raises(ValueError, match=r"must have seed = 6, got 5\. Remove"):
    synthetic.write(folder, 3, 2, HEIGHT, WIDTH, seed=6)
  (folder / "scenes.json").unlink()
  with pytest.raises(ValueError, match="exists, and is not the data asked for"):
    synthetic.write(folder, 3, 2, HEIGHT, WIDTH, seed=5)


def test_command_writes_data_and_a_picture_and_rejects_another_seed(tmp_path):
  options = ["--train", "2", "--val", "1", "--height", "6", "--width", "8"]
  options += ["--out", str(tmp_path / "rooms")]
  options += ["--picture", str(tmp_path / "picture.png")]
  command = [
    sys.executable,
    "-m",
    "benchmarks.experiments.problems.scenes.synthetic",
    *options,
  ]
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
  assert done.returncode == 0, done.stderr
  assert check(tmp_path / "rooms", "val") == Size(1, 6, 8)
  assert (tmp_path / "picture.png").stat().st_size > 5_000
  description = json.loads((tmp_path / "rooms/scenes.json").read_text())
  assert description["kind"] == "synthetic"
  done = subprocess.run(
    [*command, "--seed", "1"], cwd=ROOT, capture_output=True, text=True, timeout=600
  )
  assert done.returncode == 2
  assert "must have seed = 1, got 0" in done.stderr


def test_picture_of_data_without_normals_is_written(cityscapes, tmp_path):
  write_picture(Scenes(cityscapes, "train"), tmp_path / "picture.png")
  assert (tmp_path / "picture.png").stat().st_size > 5_000
