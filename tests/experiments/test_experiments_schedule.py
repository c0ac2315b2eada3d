"""Tests the learning rate over a run, and seeds that are reported but not tuned by."""

from pathlib import Path

import chex
import jax
import numpy as np
import pytest

from benchmarks.experiments import runner, train
from benchmarks.experiments import sweep as sweeps
from benchmarks.experiments.model import Model
from benchmarks.experiments.problems.fashion.problem import make_problem
from benchmarks.experiments.step import rate_factor
from benchmarks.experiments.summary import caption
from tests.helpers.experiments import (
  TASKS,
  TinyRun,
  TinySweep,
  of_two_tasks,
  tiny_run,
  tiny_sweep,
  write_images,
)

pytestmark = pytest.mark.usefixtures("quick_experiments")
RATE = 0.01


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  return write_images(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def model(data):
  settings = tiny_run(data, validation=0.25, method="slaw")
  return Model(of_two_tasks(make_problem(settings)))


@pytest.fixture(scope="module")
def constant(model, data):
  """Trains at a constant rate, and compiles once for several tests."""
  return train.make_trainer(model, make_run(data, Path("unused"), "constant"))


def make_run(data, out, schedule):
  options = {"validation": 0.25, "method": "slaw", "learning_rate": RATE}
  return tiny_run(data, out, schedule=schedule, **options)


def expected_factors(schedule, steps):
  at, warmup = np.arange(steps), max(1, round(steps / 20))
  falling = (1 + np.cos(np.pi * (at - warmup) / (steps - warmup))) / 2
  after = falling if schedule == "cosine" else np.ones(steps)
  return np.where(at < warmup, at / warmup, after)


@pytest.mark.parametrize("steps", [2, 30, 100])
@pytest.mark.parametrize("schedule", ["cosine", "warmup"])
def test_factor_rises_linearly_over_5_percent_and_a_cosine_then_falls_to_0(
  schedule, steps
):
  factor = rate_factor(schedule, steps)
  factors = [float(factor(step)) for step in range(steps)]
  np.testing.assert_allclose(factors, expected_factors(schedule, steps), atol=1e-6)
  assert float(factor(steps)) == pytest.approx(float(schedule == "warmup"), abs=1e-6)


@pytest.mark.parametrize("schedule", ["cosine", "warmup"])
def test_a_schedule_trains_like_rates_that_are_set_before_each_step(
  schedule, model, constant, data, tmp_path
):
  run = make_run(data, tmp_path, schedule)
  trainer = train.make_trainer(model, run)
  states = [either.init(0, RATE) for either in (constant, trainer)]
  batches = model.problem.train_batches(8, 0)
  steps = constant.steps_per_epoch * 3
  for step, factor in enumerate(expected_factors(schedule, steps)):
    by_hand, scheduled = states
    rate = model.replicate(np.float32(RATE * factor))
    hyperparams = by_hand.optimizer.hyperparams | {"learning_rate": rate}
    optimizer = by_hand.optimizer._replace(hyperparams=hyperparams)
    by_hand = by_hand._replace(optimizer=optimizer)
    states = [
      constant.step(by_hand, batches[step])[0],
      trainer.step(scheduled, batches[step])[0],
    ]
  leaves = [jax.tree.leaves(state.params) for state in states]
  chex.assert_trees_all_close(*leaves, rtol=1e-3, atol=1e-5)


def test_sgd_has_momentum_and_takes_the_rate_of_each_run(model, data, tmp_path):
  run = tiny_run(data, tmp_path, optimizer="sgd", method="equal-weights")
  trainer = train.make_trainer(model, run)
  batch = model.problem.train_batches(8, 0)[0]

  def moved(rate, state):
    before = jax.tree.map(np.array, state.params)
    hyperparams = state.optimizer.hyperparams | {"learning_rate": np.float32(rate)}
    optimizer = state.optimizer._replace(hyperparams=hyperparams)
    replicated = model.replicate(state._replace(optimizer=optimizer))
    state, _ = trainer.step(replicated, batch)
    return jax.tree.map(lambda x, y: np.asarray(x) - y, state.params, before), state

  (one, _), (nothing, state) = (moved(rate, trainer.init(0, 1.0)) for rate in (1, 0))
  assert not any(np.any(x) for x in jax.tree.leaves(nothing))
  again, _ = moved(0.5, state)  # the same gradient, after a momentum of itself
  expected = jax.tree.map(lambda x: 0.5 * 1.9 * x, one)
  leaves = map(jax.tree.leaves, (again, expected))
  chex.assert_trees_all_close(*leaves, rtol=1e-3, atol=1e-5)
  assert run.identity("title")["optimizer"] == "sgd"


def test_result_is_that_of_the_last_model_if_the_rate_falls_to_0(
  constant, data, tmp_path
):
  for schedule in ("constant", "cosine"):
    result = train.train(constant, make_run(data, tmp_path / schedule, schedule))
    rows = [row["test"]["left"] for row in result["history"]]
    expected = rows[-1] if schedule == "cosine" else np.mean(rows)
    assert result["last"]["test"]["left"] == pytest.approx(expected)
    assert result["identity"]["schedule"] == schedule
  assert caption("last", {}) == caption("last", {"schedule": "constant"})
  assert caption("last", {"schedule": "cosine"}) == "the model at the end of training"


@pytest.mark.parametrize(("apart", "seeds"), [(True, 2), (False, 4)])
def test_tuning_seeds_are_reported_only_if_they_are_not_apart(
  apart, seeds, model, data, tmp_path, monkeypatch
):
  done = []

  def pretend(trainer, run, progress=None):
    if not run.tasks:
      done.append((run.learning_rate, run.seed))
    # On the reported seeds the other rate is better.
    error = run.learning_rate if run.seed < 3 else 1 / run.learning_rate
    metrics = {"ink": error + run.seed, "left": 1 / error}
    splits = {"validation": metrics, "test": metrics}
    return {"last": splits, "best": splits, "history": [splits]}

  monkeypatch.setattr(runner, "train", pretend)
  settings = tiny_sweep(
    data,
    tmp_path,
    validation=0.25,
    methods=("slaw",),
    learning_rates=(0.5, 0.25),
    most_extensions=0,
    seeds=seeds,
    tuning_seeds=3,
    tuning_seeds_apart=apart,
    jobs=1,
  )
  summary = sweeps.sweep(model, settings, TinyRun)
  row = summary["rows"]["slaw"]
  assert row["learning_rate"] == 0.25
  reported = (3, 4) if apart else (0, 1, 2, 3)
  tuned = {(rate, seed) for rate in (0.5, 0.25) for seed in (0, 1, 2)}
  assert set(done) == tuned | {(0.25, seed) for seed in reported}
  errors = [4.0 + seed if seed > 2 else 0.25 + seed for seed in reported]
  assert row["test"]["last"]["ink"] == errors
  assert len(row["delta_m"]["last"]) == len(reported)
  assert summary["settings"]["tuning_seeds_apart"] == apart
  assert summary["tasks"] == list(TASKS)


def test_a_sweep_follows_the_protocol_unless_told_otherwise(data, tmp_path):
  settings = TinySweep(data=data, out=tmp_path)
  assert settings.schedule == "cosine"
  assert settings.validation > 0
  rates = settings.learning_rates
  assert len(rates) >= 3
  ratios = np.divide(rates[1:], rates[:-1])
  assert (ratios >= 3 - 1e-6).all()
  assert (ratios <= 4).all()
  assert settings.most_extensions > 0  # rows at an edge go on
  assert settings.tuning_seeds >= 4
  assert settings.tuning_seeds_apart
  assert settings.seeds >= 5
