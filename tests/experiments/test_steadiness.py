"""Tests what is seen of a method's weights and updates, step by step."""

import json

import jax
import numpy as np
import pytest

from benchmarks.experiments import cli, steadiness
from benchmarks.experiments.model import Model
from benchmarks.experiments.problems.fashion import problem as fashion
from benchmarks.experiments.runner import Runner
from benchmarks.experiments.sweep import sweep
from benchmarks.experiments.tuning import Row
from tests.helpers.experiments import (
  STEPS_PER_EPOCH,
  TINY,
  committed,
  of_two_tasks,
  write_images,
)

COMMANDS = cli.commands(fashion.FashionSettings)
METHODS = ("mgda", "mgda-smoothed-0.9")


@pytest.fixture(scope="module")
def done(tmp_path_factory, quick_experiments):
  """Runs a sweep and returns its model and its settings."""
  folder = tmp_path_factory.mktemp("steadiness")
  settings = COMMANDS["sweep"](
    **TINY | {"epochs": 2},
    data=write_images(folder),
    out=folder / "out",
    methods=METHODS,
    learning_rates=(0.01,),
    seeds=1,
    steps_per_call=2,
  )
  model = Model(of_two_tasks(fashion.make_problem(settings)))
  sweep(model, settings, COMMANDS["train"])
  return model, settings


@pytest.mark.thorough
def test_what_is_seen_agrees_with_steps_taken_one_by_one(done):
  trainer = Runner(*done, COMMANDS["train"]).trainer(Row("mgda"))
  found = steadiness.watch(trainer, trainer.init(3, 0.01), 3, 2)
  state, logs, jumps, updates = trainer.init(3, 0.01), None, [], []
  batches = trainer.problem.train_batches(trainer.batch_size, 3)
  for at in range(2 * STEPS_PER_EPOCH):
    before = [np.array(x) for x in jax.tree.leaves(state.params["trunk"])]
    state, (_, weights) = trainer.step(state, batches[at])
    after = map(np.array, jax.tree.leaves(state.params["trunk"]))
    moved = [(b - a).ravel() for a, b in zip(before, after, strict=True)]
    updates.append(np.concatenate(moved).astype(np.float64))
    now = np.log(np.maximum(weights, 1e-6))
    jumps.append(0 if logs is None else np.abs(now - logs).mean())
    logs = now
  for epoch, row in enumerate(found):
    part = slice(STEPS_PER_EPOCH * epoch, STEPS_PER_EPOCH * (epoch + 1))
    assert row["jump"] == pytest.approx(np.mean(jumps[part]), rel=1e-3)
    own = np.array(updates[part])
    noise = own.var(0, ddof=1).sum()
    signal = max(0.0, (own.mean(0) ** 2).sum() - noise / STEPS_PER_EPOCH)
    assert row["update_gnr"] == pytest.approx(signal / noise, rel=1e-2, abs=1e-6)
  assert found[1]["jump"] > 0


@pytest.mark.thorough
def test_study_writes_table_figure_and_numbers(done):
  model, settings = done
  options = steadiness.Steadiness(
    data=settings.data, out=settings.out, methods=METHODS, seeds=2
  )
  text = steadiness.steadiness(model, options, settings, COMMANDS["train"])
  assert (settings.out / "steadiness.md").read_text() == text + "\n"
  picture = settings.out / "steadiness.png"
  assert picture.read_bytes().startswith(b"\x89PNG")
  assert picture.stat().st_size < 300_000
  rows = json.loads((settings.out / "steadiness.json").read_text())["rows"]
  assert list(rows) == list(METHODS)
  for row in rows.values():
    assert np.array(row["jump"]).shape == np.array(row["update_gnr"]).shape == (2, 2)
  plain, smoothed = (np.mean(row["jump"]) for row in rows.values())
  assert smoothed < plain
  assert f"| mgda              | {plain:.3f}" in text


def test_the_committed_table_is_that_of_the_committed_results():
  rows = committed("steadiness", steadiness.markdown)
  # What docs/results.md says of them.
  jump = {name: np.mean(row["jump"]) for name, row in rows.items()}
  ours, smoothed = jump["maxgnr-0.9"], jump["maxgnr-0.9-smoothed-0.9"]
  assert (round(np.exp(ours), 1), round(ours / smoothed)) == (1.4, 13)
  assert jump["slaw"] < smoothed < ours < jump["ngdiff"]


def test_wrong_rows_and_no_seeds_are_errors(done):
  model, settings = done
  options = steadiness.Steadiness(out=settings.out, methods=("dwa",))
  with pytest.raises(ValueError, match="no joint row 'dwa'"):
    steadiness.steadiness(model, options, settings, COMMANDS["train"])
  with pytest.raises(ValueError, match="seeds must be at least 1, got 0"):
    steadiness.Steadiness(seeds=0)
