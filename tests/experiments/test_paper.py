"""Tests the commands that make all of the paper's tables and figures, or figure 2."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.experiments.paper import batch_size
from tests.helpers import commands

pytestmark = pytest.mark.usefixtures("quick_experiments")


@pytest.mark.thorough
def test_one_command_makes_all_tables_and_figures(tmp_path, capsys):
  options = {
    "out": tmp_path,
    "methods": "equal-weights maxgnr-0.9",
    "seeds": 2,
    "epochs": 2,
    "learning-rates": 3e-3,
    "train": 16,
    "test": 8,
    "height": 8,
    "width": 12,
    "filters": "4 4",
  }
  flags = []
  for name, value in options.items():
    flags += [f"--{name}", *str(value).split()]
  commands.run_here("benchmarks.experiments.paper", *flags)
  assert (tmp_path / "table.md").read_text() in capsys.readouterr().out
  for figure in ("weights", "gradient_norms", "gnr", "delta_m_last"):
    assert (tmp_path / f"{figure}.png").stat().st_size > 10_000
  assert (tmp_path / "batch_size" / "batch_size.png").stat().st_size > 10_000
  summary = json.loads((tmp_path / "results.json").read_text())
  assert "synthetic" in summary["problem"]
  assert list(summary["rows"]) == ["single-task", *options["methods"].split()]
  for row in summary["rows"].values():
    assert np.shape(row["delta_m"]["last"]) == (2,)
    assert np.isfinite(row["delta_m"]["last"]).all()
  assert summary["gradient_noise"]["maxgnr-0.9"]["gnr_multi"].keys() == {
    "depth",
    "normal",
    "segmentation",
  }


@pytest.mark.thorough
def test_large_batches_win_at_equal_steps_and_small_ones_at_equal_passes(
  monkeypatch, tmp_path
):
  budgets = {}
  make_run = batch_size.make_run

  def recorded(train, test, size, steps, rate):
    budgets.setdefault(size, []).append(steps)
    return make_run(train, test, size, steps, rate)

  monkeypatch.setattr(batch_size, "make_run", recorded)
  settings = batch_size.Settings(
    out=tmp_path, batch_sizes=(2, 64, 2048), passes=3, steps=100, train=500, seeds=2
  )
  summary = batch_size.main(settings)
  # A batch of 2,048 does not fit into the 500 examples and is left out.
  assert budgets == {2: [750, 100], 64: [23, 100]}
  accuracy = summary["accuracy"]
  assert np.mean(accuracy["steps"]["64"]) > np.mean(accuracy["steps"]["2"]) + 5
  assert np.mean(accuracy["passes"]["2"]) > np.mean(accuracy["passes"]["64"]) + 5
  table = (tmp_path / "table.md").read_text()
  for budget in ("passes", "steps"):
    assert f"{np.mean(accuracy[budget]['64']):.2f} ±" in table
  assert json.loads((tmp_path / "results.json").read_text()) == summary


def test_batch_size_above_the_number_of_examples_is_rejected():
  with pytest.raises(ValueError, match="from 1 to the 500 examples, got 512"):
    batch_size.measure(batch_size.Settings(batch_sizes=(512,), train=500))


def test_accuracy_is_the_share_of_the_only_class_that_was_trained():
  _, _, test = batch_size.examples(batch_size.Settings())
  most = np.bincount(np.asarray(test.label)).max() / len(test.label)
  blank = batch_size.Classified(np.ones((4, 64), np.float32), np.full(4, 3))
  same = batch_size.Classified(np.ones((5, 64), np.float32), np.array([3, 3, 1, 2, 9]))
  run = batch_size.make_run(
    *(batch_size.Classified(*map(jnp.asarray, part)) for part in (blank, same)),
    size=2,
    steps=20,
    learning_rate=0.1,
  )
  assert float(run(jax.random.key(0))) == pytest.approx(40)
  assert 0.08 < most < 0.2  # classes are balanced, so 40 % is not chance
