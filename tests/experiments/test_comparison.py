"""Tests the comparison of a sweep's rows, seed by seed."""

import json

import numpy as np
import pytest

from benchmarks.experiments import comparison, report
from benchmarks.experiments.problems.scenes import paper
from benchmarks.experiments.problems.tox21 import problem as tox21
from tests.helpers.experiments import ROOT

# Of sweeps that follow the protocol.
RESULTS = [
  path
  for path in (ROOT / "benchmarks" / "results").glob("*/results.json")
  if '"tuning_seeds_apart": true' in path.read_text()
  and '"groups"' not in path.read_text()
]


def made_up(rates, **rows):
  """Makes a summary from the seeds' Δm of each row."""
  return {
    "problem": "made up",
    "settings": {"learning_rates": [0.01, 0.1, 1.0], "schedule": "cosine"},
    "rows": {
      name: {"delta_m": {"last": list(map(float, values))}}
      | (
        {"learning_rates": rates[name], "validation": dict.fromkeys(rates[name], TRIED)}
        if name == "single-task"
        else {
          "learning_rate": rates.get(name, 0.1),
          "validation": WIDER if name == "a" else TRIED,
        }
      )
      for name, values in rows.items()
    },
  }


RATES = {"single-task": {"one": 0.1, "two": 0.01}, "a": 1.0, "b": 1.0}
TRIED = {"0.01": 0.0, "0.1": 0.0, "1": 0.0}
WIDER = TRIED | {"3": 0.0}  # a row whose grid was extended
ROWS = {
  "single-task": [1, -1, 0, 0],
  "maxgnr-0.9": [2, 4, 3, 3],
  "a": [1, 3, 2, 2],
  "b": [5, 2, 3, 8],
}


def summary():
  return made_up(RATES, **ROWS)


def test_interval_agrees_with_the_normal_one_for_many_seeds():
  values = np.random.default_rng(1).normal(3, 2, size=400)
  error = values.std() / 20
  expected = values.mean() + 1.96 * error * np.array([-1, 1])
  np.testing.assert_allclose(comparison.interval(values), expected, atol=0.06 * error)


def test_interval_of_a_constant_difference_is_that_difference():
  assert comparison.interval(np.full(5, -2.0)) == (-2.0, -2.0)
  low, high = comparison.interval(np.array([1.0, 2.0, 4.0]))
  negative = comparison.interval(-np.array([1.0, 2.0, 4.0]))
  assert negative == pytest.approx((-high, -low))
  assert 1 <= low < 7 / 3 < high <= 4


def test_rows_are_compared_seed_by_seed():
  found = comparison.compare(summary(), "maxgnr-0.9")
  assert list(found) == list(ROWS)
  for name, values in ROWS.items():
    difference = np.array(values) - ROWS["maxgnr-0.9"]
    assert found[name]["delta_m"] == np.mean(values)
    assert found[name]["difference"] == difference.mean()
    assert found[name]["seeds_above"] == (difference > 0).sum()
  # The rows go up and down together, so that the seeds' spread cancels.
  assert found["a"]["difference_interval"] == (-1.0, -1.0)
  assert np.ptp(found["a"]["delta_m_interval"]) > 0
  assert found["single-task"]["delta_m_interval"] == (0.0, 0.0)
  edges = {name for name, row in found.items() if row["at_edge"]}
  assert edges == {"single-task", "b"}
  with pytest.raises(ValueError, match=r"no row 'c'.*maxgnr-0\.9, a, b"):
    comparison.compare(summary(), "c")


def test_rows_are_compared_with_the_best_other_row_without_the_baseline():
  found = comparison.compare(summary())
  best = {"single-task": "b", "maxgnr-0.9": "b", "a": "b", "b": "maxgnr-0.9"}
  assert {name: row["against"] for name, row in found.items()} == best
  assert found["b"]["difference"] == 4.5 - 3
  assert found["a"]["difference"] == 2 - 4.5
  alone = comparison.compare(made_up(RATES, **{"single-task": [0, 0], "a": [1, 2]}))
  assert alone["a"]["against"] is None


def cells_of(text):
  lines = [line for line in text.splitlines() if line.startswith("|")]
  return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_table_has_the_best_row_first_and_marks_what_needs_attention(tmp_path):
  whole = summary()
  whole["rows"]["a"]["change_at_end"] = 1.25
  whole["rows"]["b"]["change_at_end"] = -0.04
  (tmp_path / "results.json").write_text(json.dumps(whole))
  options = comparison.Comparison(folder=tmp_path, against="maxgnr-0.9")
  cells = cells_of(comparison.main(options))
  assert [row[0] for row in cells] == ["b", "maxgnr-0.9", "a", "single-task"]
  assert cells[0][3] == "+1.5"
  assert cells[0][5:] == ["2 of 4", "-0.0", "1 (edge)"]
  assert cells[1][3:] == ["", "", "", "", "0.1"]
  assert cells[2][4] == "-1.0 to -1.0"
  assert cells[2][6] == "+1.2 (rising)"
  assert cells[3][-1] == "0.01, 0.1 (edge)"


def test_diverged_runs_come_last_and_are_counted():
  rows = ROWS | {"b": [5, float("nan"), 3, float("nan")]}
  cells = cells_of(comparison.markdown(made_up(RATES, **rows)))
  assert cells[-1][:6] == ["b", "diverged (2 of 4)", "", "", "", "1 of 4"]
  assert cells[0][0] == "maxgnr-0.9"


@pytest.mark.parametrize("name", sorted(p.parent.name for p in RESULTS))
def test_committed_tables_are_those_of_the_committed_results(name):
  folder = ROOT / "benchmarks" / "results" / name
  results = json.loads((folder / "results.json").read_text())
  published = {
    "tox21": tox21.reference(tox21.SETTINGS(data=folder, out=folder)),
    "scenes": paper.TABLE_2,
  }
  table = report.text(results, published.get(name))
  assert (folder / "table.md").read_text() == table + "\n"
  assert results["settings"]["tuning_seeds"] >= 4
  assert results["settings"]["tuning_seeds_apart"]
  assert results["settings"]["schedule"] == "cosine"
  assert results["command"].startswith("python -m benchmarks.e")
  if results["settings"]["learning_rates"][1:]:
    assert not any(row["at_edge"] for row in comparison.compare(results).values())
