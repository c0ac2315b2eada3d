"""The benchmark of the ways to a combined gradient compares what is the same."""

import functools
import json

import jax
import numpy as np
import pytest

from benchmarks.speed import aggregators, report, ways
from benchmarks.speed.cases import Case, gradients
from benchmarks.speed.models import make_problem
from tests.helpers import commands


@pytest.fixture(autouse=True)
def flax(standard_promotion, quick_compilation):
  """Flax promotes dtypes itself."""


def assert_close(actual, expected):
  compare = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5)
  jax.tree.map(compare, actual, expected)


@pytest.mark.thorough
def test_all_ways_to_stacked_gradients_give_the_same():
  problem = make_problem("MLP", tasks=4, batch_size=3)
  runs = ways.stacked_ways(problem)
  assert set(runs) == set(report.TASK_GRADS)
  found = {}
  for name in report.TASK_GRADS:
    found[name], _ = runs[name].compiled(runs[name].state, *runs[name].args)
  assert_close(found["vmap"], found["stacked"])
  assert_close(found["sequential"], found["stacked"])


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


@pytest.mark.thorough
def test_the_command_writes_its_tables_and_results(tmp_path, capsys):
  options = ["--rounds", "1", "--models", "MLP", "--tasks", "2", "--batch-size", "4"]
  options += ["--out", str(tmp_path)]
  commands.run_here("benchmarks.speed.ways", *options)
  said = capsys.readouterr().out
  results = json.loads((tmp_path / "results.json").read_text())
  assert results["rounds"] == 1
  for name in report.TABLES_OF_WAYS:
    table = getattr(report, name)(results)
    assert (tmp_path / f"{name}.md").read_text() == table + "\n"
    assert table in said
  (entry,) = results["steps"]
  assert entry["runs"]["single"]["to_single"] == 1
