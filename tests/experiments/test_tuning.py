"""Tests which learning rates a sweep tries, and how it marks rows at an edge."""

import collections
import math
import types

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.experiments import cli, runner, tables, tuning
from benchmarks.experiments import sweep as sweeps
from benchmarks.experiments.problems import pairs
from benchmarks.experiments.problems.digits.problem import DigitsSettings, make_problem

OF_DIGITS = cli.commands(DigitsSettings)
GRID = (3e-3, 1e-3, 1e-2)  # in any order
INSIDE = dict.fromkeys(pairs.TASKS, 0.003) | {"slaw": 3e-3, "dwa": 3e-3}


@pytest.mark.parametrize(
  ("grid", "upwards", "downwards"),
  [
    ((1e-3, 3e-3, 1e-2, 3e-2), (1e-1, 3e-1, 1), (3e-4, 1e-4, 3e-5)),
    ((3e-3, 1e-2), (3e-2, 1e-1, 3e-1), (1e-3, 3e-4, 1e-4)),
    ((1e-3, 1e-2), (1e-1, 1, 10), (1e-4, 1e-5, 1e-6)),
    ((0.25, 0.5), (1, 2, 4), (0.1, 0.04, 0.02)),
  ],
)
def test_grid_goes_on_at_its_ratio(grid, upwards, downwards):
  for sign, expected in ((1, upwards), (-1, downwards)):
    rates = list(grid)
    for _ in expected:
      rates.append(tuning.next_rate({rate: sign * rate for rate in rates}))
    assert rates[len(grid) :] == pytest.approx(list(expected), rel=1e-12)


rates = st.lists(
  st.floats(1e-6, 1e3).map(lambda x: float(f"{x:.2g}")),
  min_size=2,
  max_size=5,
  unique=True,
)


@given(rates, st.data())
def test_next_rate_lies_beyond_the_edge_of_the_best_one(rates, data):
  scores = data.draw(
    st.lists(st.floats(-9, 9), min_size=len(rates), max_size=len(rates))
  )
  scores = dict(zip(rates, scores, strict=True))
  best, found = tuning.best_of(scores), tuning.next_rate(scores)
  assert tuning.is_at_edge(scores, best) == (found is not None)
  if best == max(rates):
    assert found > best
  elif best == min(rates):
    assert found < best
  else:
    assert found is None


def test_next_rate_is_lower_if_all_runs_diverged_and_there_is_none_without_choice():
  nan, inf = math.nan, math.inf
  assert tuning.next_rate({1e-2: nan, 3e-3: -inf, 3e-2: nan}) == 1e-3
  assert tuning.next_rate({1e-2: nan, 3e-3: 1.0, 1e-3: 0.5}) is None
  assert tuning.next_rate({1e-2: 1.0}) is None
  assert not tuning.is_at_edge({}, 1e-2)


@pytest.fixture(scope="module")
def problem():
  return make_problem(DigitsSettings())


@pytest.fixture
def pretended(problem, monkeypatch, tmp_path):
  """Makes a sweep in which every row has a best rate, and nothing is trained."""

  def sweep(best, **settings):
    done, bars = collections.Counter(), []

    def pretend(trainer, run, progress=None):
      row = run.tasks[0] if run.tasks else run.method
      done[row, run.learning_rate, run.seed] += 1
      error = 1 + (np.log(run.learning_rate / best[row])) ** 2 + 0.1 * run.seed
      errors = {m.name: error if m.sign < 0 else -error for m in problem.metrics}
      splits = {"validation": errors, "test": errors}
      return {"last": splits, "best": splits, "history": [splits]}

    def counted(*args, **kwargs):
      bars.append(tqdm(*args, **kwargs))
      return bars[-1]

    tqdm = runner.tqdm
    trainer = types.SimpleNamespace(steps_per_epoch=1)
    with monkeypatch.context() as patch:
      patch.setattr(runner, "train", pretend)
      patch.setattr(runner, "make_trainer", lambda model, run: trainer)
      patch.setattr(runner, "tqdm", counted)
      options = {
        "methods": ("slaw", "dwa"),
        "learning_rates": GRID,
        "tuning_seeds": 2,
        "seeds": 3,
      }
      config = OF_DIGITS["sweep"](out=tmp_path, **options | settings)
      model = types.SimpleNamespace(problem=problem)
      summary = sweeps.sweep(model, config, OF_DIGITS["train"])
    assert set(done.values()) == {1}
    assert all(bar.n == bar.total for bar in bars)
    return summary, set(done)

  return sweep


def tried(done, row):
  return {rate for name, rate, _ in done if name == row}


def test_rows_whose_best_rate_is_outside_of_the_grid_get_rates_beyond_it(pretended):
  best = INSIDE | {"ink": 1e-4, "left": 0.1, "slaw": 1e-1, "dwa": 3e-5}
  summary, done = pretended(best)
  rows = summary["rows"]
  for task in pairs.TASKS:
    assert rows["single-task"]["learning_rates"][task] == best[task]
  for method in ("slaw", "dwa"):
    assert rows[method]["learning_rate"] == best[method]
  assert not any(row["at_edge"] for row in rows.values())
  # One rate beyond the best one shows that it is inside.
  beyond = {
    "canvas": (),
    "ink": (3e-4, 1e-4, 3e-5),
    "left": (3e-2, 1e-1, 3e-1),
    "right": (),
    "slaw": (3e-2, 1e-1, 3e-1),
    "dwa": (3e-4, 1e-4, 3e-5, 1e-5),
  }
  for row, more in beyond.items():
    assert tried(done, row) == {*GRID, *more}
    for rate in more:  # by all tuning seeds, and only the best by those reported
      seeds = {seed for name, x, seed in done if (name, x) == (row, rate)}
      assert seeds == ({0, 1, 2, 3, 4} if rate == best[row] else {0, 1})
  assert set(rows["dwa"]["validation"]) == {f"{x:g}" for x in tried(done, "dwa")}


@pytest.mark.parametrize("most", [0, 2, 4])
def test_extensions_are_bounded_and_rows_at_an_edge_are_marked(most, pretended):
  best = INSIDE | {"right": 1e-9, "slaw": 1e9}
  summary, done = pretended(best, most_extensions=most)
  assert len(tried(done, "right")) == len(tried(done, "slaw")) == 3 + most
  assert len(tried(done, "dwa")) == 3
  edges = {name for name, row in summary["rows"].items() if row["at_edge"]}
  assert edges == {"single-task", "slaw"}
  highest = {0: "0.01", 2: "0.1", 4: "1"}[most]
  cells = [line.split("|")[-2].strip() for line in lines(summary)]
  lowest = {0: "0.001", 2: "0.0001", 4: "1e-05"}[most]
  assert cells == [f"{lowest}, 0.003 (edge)", f"{highest} (edge)", "0.003"]
  assert r" (edge) \\" in tables.latex(summary, "last")


def lines(summary):
  return tables.markdown(summary, "last").splitlines()[2:]


def test_row_whose_runs_all_diverged_gets_lower_rates_and_is_marked(pretended):
  summary, done = pretended(INSIDE | {"slaw": math.nan})
  assert summary["rows"]["slaw"]["at_edge"]
  assert min(tried(done, "slaw")) == pytest.approx(1e-5)
  assert max(tried(done, "slaw")) == max(GRID)


def test_single_rate_is_no_choice_and_not_extended(pretended):
  summary, done = pretended(INSIDE, learning_rates=(0.1,))
  assert {rate for _, rate, _ in done} == {0.1}
  assert not any(row["at_edge"] for row in summary["rows"].values())
