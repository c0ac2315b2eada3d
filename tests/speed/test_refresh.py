"""The benchmark of weights that are reused for several steps."""

import json

import chex
import numpy as np
import pytest

from benchmarks.speed import refresh, report
from benchmarks.speed.models import make_problem
from tests.helpers import commands


@pytest.fixture(autouse=True)
def flax(standard_promotion, quick_compilation):
  """Flax promotes dtypes itself."""


@pytest.mark.thorough
def test_one_compiled_step_with_cond_equals_two_compiled_steps():
  problem = make_problem("MLP", tasks=3, batch_size=3)
  chosen = refresh.refreshed(problem, every=2)
  choose, keep = (refresh.refreshed(problem, 16, said) for said in (True, False))
  called = refresh._cycle(choose, keep, 2)
  for run in (refresh._cycle(chosen), called):
    assert run() > 0
  assert chosen.state[1].count == choose.state[1].count == refresh.CYCLE
  counts = [run.state[1].aggregator.count for run in (chosen, choose)]
  assert counts == [refresh.CYCLE // 2] * 2
  weights = [run.state[1].aggregator.weights for run in (chosen, choose)]
  np.testing.assert_allclose(*weights, rtol=0.05)


@pytest.mark.thorough
def test_the_command_writes_its_table_and_results(tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(report, "EVERY", (2, 16))  # each is a program to compile
  options = ["--rounds", "1", "--models", "MLP", "--tasks", "2", "--batch-sizes", "4"]
  options += ["--out", str(tmp_path)]
  commands.run_here("benchmarks.speed.refresh", *options)
  results = json.loads((tmp_path / "results.json").read_text())
  table = report.refresh(results)
  assert (tmp_path / "table.md").read_text() == table + "\n"
  assert table in capsys.readouterr().out
  (entry,) = results["steps"]
  assert set(entry["runs"]) > {"single", "every 1", "cond 16", "two 2"}
  assert entry["runs"]["single"]["to_single"] == 1
  chex.assert_tree_all_finite(entry["runs"])
