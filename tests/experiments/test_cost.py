"""Tests what rows reach in the time of plain training."""

import json

import numpy as np
import pytest

from benchmarks.experiments import cli, cost
from benchmarks.experiments.metric import Metric, delta_m, mean_over_seeds
from benchmarks.experiments.model import Model
from benchmarks.experiments.problems.fashion import problem as fashion
from benchmarks.experiments.runner import Runner
from benchmarks.experiments.summary import by_seed
from benchmarks.experiments.sweep import sweep
from benchmarks.experiments.tuning import Row
from tests.helpers.experiments import TINY, committed, of_two_tasks, write_images

COMMANDS = cli.commands(fashion.FashionSettings)


@pytest.mark.parametrize(
  ("epochs", "ratio", "expected"),
  [(20, 1.0, 20), (20, 1.04, 19), (20, 2.0, 10), (20, 0.9, 22), (3, 100.0, 1)],
)
def test_epochs_that_fit_into_the_same_time(epochs, ratio, expected):
  assert cost.equal_epochs(epochs, ratio) == expected


@pytest.fixture(scope="module")
def done(tmp_path_factory, quick_experiments):
  """Runs a sweep and returns its model, its settings and its summary."""
  folder = tmp_path_factory.mktemp("cost")
  settings = COMMANDS["sweep"](
    **TINY | {"epochs": 4, "validation": 0.25},
    data=write_images(folder),
    out=folder / "out",
    methods=("slaw", "fixed-weights"),
    learning_rates=(0.01,),
    seeds=2,
    weight_draws=2,
  )
  model = Model(of_two_tasks(fashion.make_problem(settings)))
  return model, settings, sweep(model, settings, COMMANDS["train"])


def test_the_committed_table_is_that_of_the_committed_results():
  rows = committed("cost", cost.markdown)
  reached = {name: np.mean(row["delta_m"]) for name, row in rows.items()}
  first, second = sorted(reached, key=reached.get)[:-3:-1]
  assert (first, second) == ("slaw", "maxgnr-0.9-last-bias-smoothed-0.9")  # as it says


@pytest.mark.thorough
def test_rows_are_timed_beside_plain_training(done):
  model, settings, _ = done
  runner = Runner(model, settings, COMMANDS["train"])
  ratios = cost.step_times(runner, [cost.PLAIN, Row("slaw")], 3)
  assert ratios[cost.PLAIN] == [1.0, 1.0, 1.0]
  assert len(ratios[Row("slaw")]) == 3
  assert min(ratios[Row("slaw")]) > 0


def test_rows_are_trained_for_as_many_epochs_as_fit(done, monkeypatch):
  model, settings, summary = done
  weights = tuple(summary["rows"]["fixed-weights"]["weights"])
  times = {Row("slaw"): [2.0, 1.9, 2.4], Row("fixed-weights", weights=weights): [1.0]}

  def pretend(runner, rows, rounds):
    assert rows == [*times]
    return times

  monkeypatch.setattr(cost, "step_times", pretend)
  options = cost.Cost(data=settings.data, out=settings.out, rounds=3)
  text = cost.cost(model, options, settings, COMMANDS["train"])
  assert (settings.out / "cost.md").read_text() == text + "\n"
  rows = json.loads((settings.out / "cost.json").read_text())["rows"]
  assert rows["slaw"]["ratio"] == 2
  assert (rows["slaw"]["epochs"], rows["fixed-weights"]["epochs"]) == (2, 4)
  fixed = summary["rows"]["fixed-weights"]["delta_m"]["last"]
  assert rows["fixed-weights"]["delta_m"] == fixed
  results = [
    json.loads(path.read_text())
    for path in sorted(settings.out.glob("equal-time/2-epochs/**/result.json"))
  ]
  assert [len(result["history"]) for result in results] == [2, 2]
  metrics = [Metric(**metric) for metric in summary["metrics"]]
  base = mean_over_seeds(
    by_seed(summary["rows"]["single-task"]["test"]["last"]), metrics
  )
  expected = [delta_m(result["last"]["test"], base, metrics) for result in results]
  np.testing.assert_allclose(rows["slaw"]["delta_m"], expected)
  lines = text.splitlines()
  assert {line.split("|")[1].strip() for line in lines[-2:]} == set(rows)
  assert "| 2.00 (1.95 to 2.20)" in text


def test_rows_that_the_sweep_lacks_are_an_error(done):
  model, settings, _ = done
  options = cost.Cost(out=settings.out, methods=("dwa",))
  with pytest.raises(ValueError, match=r"no joint row 'dwa'.*slaw, fixed-weights"):
    cost.cost(model, options, settings, COMMANDS["train"])
  with pytest.raises(ValueError, match="rounds must be at least 1, got 0"):
    cost.Cost(rounds=0)
