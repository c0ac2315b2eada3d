"""The examples learn something in a small size, and draw their pictures."""

import importlib

import jax
import numpy as np
import pytest

from tests.helpers import commands

pytestmark = [
  pytest.mark.filterwarnings("default"),  # flax and equinox raise some of their own
  pytest.mark.usefixtures("usual_promotion", "quick_compilation"),
]


@pytest.fixture
def usual_promotion(standard_promotion):
  """Allows what a user's JAX allows."""
  jax.config.update("jax_numpy_rank_promotion", "allow")
  yield
  jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def run(tmp_path):
  """Runs an example and looks whether it draws a picture."""
  picture = tmp_path / "picture.png"

  def run(name, **options):
    found = importlib.import_module(f"examples.{name}").main(picture=picture, **options)
    assert picture.read_bytes().startswith(b"\x89PNG")
    return found

  return run


def test_a_network_of_nnx_names_and_cleans_digits(run):
  found = run("digits_nnx", steps=150)
  assert found["right"] > 0.5  # by chance 0.1
  assert found["error"] < 0.06  # the noise has 0.09


def test_a_train_state_of_linen_tells_tumours_apart(run):
  found = run("tumours_linen", steps=150)
  assert found["right"] > 0.85  # benign, always: 0.63
  assert found["error"] < 0.5  # the mean, always: 1


@pytest.mark.thorough
def test_a_network_of_equinox_reads_signals(run):
  found = run("signals_equinox", steps=60)
  assert found["shape"] > 0.4  # by chance 0.33
  assert found["frequency"] < 1.8  # the mean, always: 2
  assert found["noise"] < 0.25  # the mean, always: 0.25


@pytest.mark.thorough
def test_adapters_learn_two_tasks(run):
  found = run("lora_text", pretrain_steps=10, steps=60)
  for task, chance in found["by chance"].items():
    assert found["adapted"][task] > 1.2 * chance


@pytest.mark.thorough
def test_equal_weights_solve_the_heat_equation_better_than_nothing_does(run):
  found = run("heat_equation", steps=100)
  assert set(found) == {"equal weights", "MaxGNR", "ConFIG", "Nash-MTL"}
  assert found["equal weights"] < 0.9  # zero, always: 1


@pytest.mark.thorough
def test_small_rewards_are_learnt_beside_large_ones(run):
  found = run("cart_poles", steps=60)
  assert np.all(found["maxgnr"][-5:].mean(axis=0) > 2 * found["maxgnr"][0])


@pytest.mark.thorough
def test_rare_labels_gain_from_frequent_ones(run):
  found = run("missing_labels", steps=200)
  assert found["all assays together"]["a"] > 0.7  # by chance 0.5
  rare = [
    np.mean([of_tasks[task] for task in "def"])
    for of_tasks in (found["all assays together"], found["each alone"])
  ]
  assert rare[0] > rare[1]


def test_ones_own_method_stops_between_the_minima(run):
  found = run("own_method", steps=300)
  for points in found["own method"]:
    assert np.linalg.norm(points[-1]) < 0.3
  for points in found["equal weights"]:
    assert points[-1][0] > 0.6  # near the minimum of the steep loss


def test_every_example_has_a_page_with_its_picture():
  gallery = commands.ROOT / "docs" / "gallery"
  index = (gallery / "index.md").read_text()
  for example in (commands.ROOT / "examples").glob("*.py"):
    page = (gallery / f"{example.stem}.md").read_text()
    assert f"../../examples/{example.name}" in page
    assert example.stem in index
    if "picture" in example.read_text():
      assert f"({example.stem}.png)" in page
      assert (gallery / f"{example.stem}.png").stat().st_size < 300_000
