"""The benchmark of whole train steps compares steps that compute the same."""

import functools
import json

import jax
import numpy as np
import optax
import pytest

from benchmarks.speed import aggregators, report, steps
from benchmarks.speed.cases import Case, gradients
from benchmarks.speed.models import make_problem
from tests.helpers import commands


@pytest.fixture(autouse=True)
def flax(standard_promotion, quick_compilation):
  """Flax promotes dtypes itself."""


def assert_close(actual, expected):
  compare = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5)
  jax.tree.map(compare, actual, expected)


@pytest.mark.parametrize("model", ["MLP"])
def test_all_timed_variants_compute_the_same_losses_and_gradients(model):
  problem = make_problem(model, tasks=4, batch_size=3)
  runs = steps.task_grads(problem)
  assert set(runs) == set(report.TASK_GRADS)
  losses = {}
  for name, run in runs.items():
    losses[name], run.state = run.compiled(run.state, *run.args)
  # After the first step the momenta are the gradients.
  momenta = {
    name: optax.tree.get(run.state[1], "momentum") for name, run in runs.items()
  }
  for way in ("vmap", "sequential"):
    assert_close(losses[way], losses["written_out"])
    assert_close(momenta[way], momenta["written_out"])


def test_a_step_with_equal_weights_equals_a_step_on_the_mean_loss():
  runs = steps.train_steps(make_problem("MLP", tasks=3, batch_size=3))
  assert set(runs) == set(report.STEPS)
  for run in runs.values():
    run()
  # Adam's first moment shows the gradient; its first step shows only the sign.
  first_moments = {
    name: optax.tree.get(run.state[1], "mu") for name, run in runs.items()
  }
  assert_close(first_moments["equal_weights"], first_moments["single"])


def test_every_aggregator_gets_the_values_that_its_update_needs():
  case = Case(3, 2_000, 2)
  grads = gradients(case)
  params = jax.tree.map(lambda g: g[0], grads)
  for make in aggregators.METHODS.values():
    tx, _, values = make(case)
    updates, _ = jax.eval_shape(
      functools.partial(tx.update, **values), grads, tx.init(params), params
    )
    assert jax.tree.map(np.shape, updates) == jax.tree.map(np.shape, params)


def test_the_command_writes_its_tables_figure_and_results(tmp_path):
  options = ["--rounds", "1", "--models", "MLP", "--batch-sizes", "4"]
  options += ["--out", str(tmp_path)]
  done = commands.run("-m", "benchmarks.speed.steps", *options)
  assert done.returncode == 0, done.stderr
  results = json.loads((tmp_path / "results.json").read_text())
  assert results["rounds"] == 1
  for name in ("steps", "task_grads"):
    table = getattr(report, name)(results)
    assert (tmp_path / f"{name}.md").read_text() == table + "\n"
    assert table in done.stdout
  assert [entry["tasks"] for entry in results["task_grads"]] == [3, 10]
  assert (tmp_path / "steps.png").stat().st_size > 10_000
