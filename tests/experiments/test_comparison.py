"""Tests the comparison of a sweep's rows, seed by seed."""

import json

import numpy as np
import pytest

from benchmarks.experiments import paired, tables
from tests.helpers.experiments import ROOT


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
  np.testing.assert_allclose(paired.interval(values), expected, atol=0.06 * error)


def test_interval_of_a_constant_difference_is_that_difference():
  assert paired.interval(np.full(5, -2.0)) == (-2.0, -2.0)
  low, high = paired.interval(np.array([1.0, 2.0, 4.0]))
  negative = paired.interval(-np.array([1.0, 2.0, 4.0]))
  assert negative == pytest.approx((-high, -low))
  assert 1 <= low < 7 / 3 < high <= 4


def test_rows_are_compared_seed_by_seed():
  found = paired.compare(summary(), "maxgnr-0.9")
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
    paired.compare(summary(), "c")


def test_table_is_written_and_marks_rates_at_the_edge(tmp_path):
  (tmp_path / "results.json").write_text(json.dumps(summary()))
  text = paired.main(paired.Paired(folder=tmp_path, against="maxgnr-0.9"))
  assert (tmp_path / "paired.md").read_text() == text
  numbers = json.loads((tmp_path / "paired.json").read_text())
  assert numbers["against"] == "maxgnr-0.9"
  assert set(numbers["rows"]) == set(ROWS)
  lines = [line for line in text.splitlines() if line.startswith("|")][2:]
  cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
  assert [row[0] for row in cells] == ["b", "maxgnr-0.9", "a", "single-task"]
  assert cells[0][3] == "+1.5"
  assert cells[0][5:] == ["2 of 4", "1 (edge)"]
  assert cells[1][3:] == ["", "", "", "0.1"]
  assert cells[2][4] == "-1.0 to -1.0"
  assert cells[3][-1] == "0.01, 0.1 (edge)"


def test_committed_tables_are_those_of_the_committed_results():
  folder = ROOT / "benchmarks" / "results" / "digits-measured"
  results = json.loads((folder / "results.json").read_text())
  assert (folder / "table.md").read_text() == tables.whole(results) + "\n"
  assert (folder / "paired.md").read_text() == paired.markdown(results, "maxgnr-0.9")
  numbers = json.loads((folder / "paired.json").read_text())
  assert not any(row["at_edge"] for row in numbers["rows"].values())
  assert results["settings"]["tuning_seeds"] >= 4
  assert results["settings"]["tuning_seeds_apart"]
  assert results["command"].startswith("python -m benchmarks.experiments digits sweep ")
