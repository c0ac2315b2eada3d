"""Tests the row whose weights are searched for at random."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.experiments import cli, fixed_weights, runner
from benchmarks.experiments import sweep as sweeps
from benchmarks.experiments.model import Model
from benchmarks.experiments.problems import pairs
from benchmarks.experiments.problems.digits.problem import DigitsSettings, make_problem
from benchmarks.experiments.problems.fashion import problem as fashion
from benchmarks.experiments.train import make_trainer
from tests.helpers.experiments import of_two_tasks, tiny_run, write_images

OF_DIGITS = cli.commands(DigitsSettings)
BEST_RATE = 0.003


def test_draws_are_uniform_on_a_log_scale_and_sum_to_1():
  draws = np.array(fixed_weights.draw(2, 2_000))
  np.testing.assert_allclose(draws.sum(1), 1, atol=2e-3)
  ratios = np.log10(draws[:, 0] / draws[:, 1])
  assert np.abs(ratios).max() < 3 + 1e-2
  # The difference of two uniform numbers in an interval of length 3 is triangular.
  np.testing.assert_allclose(ratios.std(), 3 / np.sqrt(6), rtol=0.05)
  assert abs(ratios.mean()) < 0.1
  assert fixed_weights.draw(2, 5) == fixed_weights.draw(2, 9)[:5]


@pytest.fixture
def pretended(monkeypatch, tmp_path):
  """Makes a sweep whose errors grow with the distance from some best weights."""

  def sweep(best, **settings):
    problem, runs = make_problem(DigitsSettings()), []

    def pretend(trainer, run, progress=None):
      runs.append(run)
      error = 2.0 + abs(np.log(run.learning_rate / BEST_RATE)) + 0.1 * run.seed
      if run.weights:
        error += np.abs(np.log(np.array(run.weights) / best)).sum() - 1.5
      errors = {m.name: error if m.sign < 0 else -error for m in problem.metrics}
      splits = {"validation": errors, "test": errors}
      return {"last": splits, "best": splits, "history": [splits]}

    trainer = types.SimpleNamespace(steps_per_epoch=1)
    monkeypatch.setattr(runner, "train", pretend)
    monkeypatch.setattr(runner, "make_trainer", lambda model, run: trainer)
    options = {
      "methods": ("slaw", "fixed-weights"),
      "learning_rates": (1e-3, 3e-3, 1e-2),
      "tuning_seeds": 2,
      "tuning_seeds_apart": True,
      "seeds": 3,
    }
    config = OF_DIGITS["sweep"](out=tmp_path, **options | settings)
    model = types.SimpleNamespace(problem=problem)
    return sweeps.sweep(model, config, OF_DIGITS["train"]), runs

  return sweep


@pytest.mark.parametrize("rates", [(1e-3, 3e-3, 1e-2), (3e-3,)])
def test_best_weights_of_the_validation_data_are_a_row_tuned_like_others(
  rates, pretended
):
  draws = fixed_weights.draw(4, 12)
  best = draws[7] if len(rates) > 1 else draws[5]
  summary, runs = pretended(np.array(best), weight_draws=12, learning_rates=rates)
  row = summary["rows"]["fixed-weights"]
  assert row["weights"] == list(best)
  assert row["learning_rate"] == BEST_RATE
  assert list(summary["rows"]) == ["single-task", "slaw", "fixed-weights"]
  tried = summary["weight_draws"]
  assert [tuple(one["weights"]) for one in tried] == draws
  assert [one["learning_rate"] for one in tried[:3]] == [*rates, *rates, *rates][:3]
  assert max(one["validation"] for one in tried) == next(
    one["validation"] for one in tried if one["weights"] == list(best)
  )
  # The draws are trained with the tuning seeds; reported are others.
  seeds = {run.seed for run in runs if run.weights and run.weights != tuple(best)}
  assert seeds == {0, 1}
  reported = {run.seed for run in runs if run.weights == tuple(best)}
  assert reported == {0, 1, 2, 3, 4}
  fixed = [run for run in runs if run.weights]
  different = {(run.weights, run.learning_rate, run.seed) for run in fixed}
  assert len({run.out for run in fixed}) == len(different)


def test_search_needs_validation_data_and_draws(pretended):
  with pytest.raises(ValueError, match=r"fixed-weights are chosen on validation data"):
    pretended(np.ones(4), learning_rates=(3e-3,), validation=0.0)
  with pytest.raises(ValueError, match=r"weight_draws must be at least 1, got 0"):
    pretended(np.ones(4), weight_draws=0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, quick_experiments):
  """Makes a trainer of two tasks whose weights are fixed."""
  run = tiny_run(write_images(tmp_path_factory.mktemp("data")), method="fixed-weights")
  return make_trainer(Model(of_two_tasks(fashion.make_problem(run))), run)


@pytest.mark.thorough
def test_step_takes_the_gradient_of_the_weighted_sum(trained):
  weights = (0.9, 0.02)
  batch = next(iter(trained.problem.train_batches(8, 0)))
  state = trained.init(0, 0.01, weights)
  (_, _, rest), grad, _ = trained._combination.value_and_grad(
    state.combination, state.params, batch, state.rest
  )

  def weighted(params):
    losses = trained.model.losses(params, batch, rest, trained.tasks)[0]
    return sum(w * losses[t] for w, t in zip(weights, trained.tasks, strict=True))

  expected = jax.grad(weighted)(state.params)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), grad, expected)
  state, (_, shown) = trained.step(state, batch)
  np.testing.assert_allclose(shown, jnp.array(weights), rtol=1e-6)
  batches = jax.tree.map(lambda x: np.stack([x, x]), batch)
  _, (_, shown) = trained.steps(trained.init(0, 0.01, weights), batches)
  np.testing.assert_allclose(shown, jnp.array(weights), rtol=1e-6)


def test_wrong_weights_are_errors(trained, tmp_path):
  with pytest.raises(ValueError, match=r"one for each of ink, left, got \(0\.5,\)"):
    trained.init(0, 0.01, (0.5,))
  with pytest.raises(ValueError, match="weights are those of fixed-weights, not"):
    tiny_run(tmp_path, method="dwa", weights=(0.5, 0.5))
  run = tiny_run(tmp_path, method="fixed-weights")
  assert "weights" not in run.identity("x")
  of_weights = dataclasses.replace(run, weights=(0.5, 0.25))
  assert of_weights.identity("x")["weights"] == [0.5, 0.25]
  assert tuple(sorted(pairs.TASKS)) == pairs.TASKS  # the order of the weights
