"""Tests the page of results: its tables, and that they come from its settings."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import rankdata

from benchmarks.evidence import __main__ as evidence
from benchmarks.evidence import page
from benchmarks.experiments import comparison
from benchmarks.experiments.config import read_file
from benchmarks.experiments.problems import PROBLEMS
from benchmarks.experiments.rows import expand
from benchmarks.experiments.summary import baseline_of
from benchmarks.experiments.sweep import Sweep
from benchmarks.methods import named

SHOWN = [problem for problems in page.SUMMARIES.values() for problem in problems]
SHOWN += page.ALONE
SETTINGS = page.ROOT / "benchmarks" / "evidence"
values = st.floats(-90, 90)


def results_of(delta_m, at_edge=()):
  """Makes the results of a problem from the seeds' Δm of each row."""
  return {
    "problem": "made up",
    "settings": {"schedule": "cosine", "learning_rates": [0.1, 1.0, 10.0]},
    "rows": {
      name: {
        "delta_m": {"last": list(map(float, seeds))},
        "learning_rate": 0.1 if name in at_edge else 1.0,
        "validation": {"0.1": 1.0 + (name in at_edge), "1": 1.5, "10": 0.0},
      }
      for name, seeds in ({"single-task": [0, 0]} | delta_m).items()
    },
  }


@pytest.mark.parametrize("problem", evidence.PROBLEMS)
def test_settings_keep_to_the_protocol(problem):
  assert problem in PROBLEMS
  settings = read_file(SETTINGS / f"{problem}.toml")
  for method in expand(settings["methods"]):
    named(method)
  kept = {"schedule", "tuning_seeds", "tuning_seeds_apart", "most_extensions"}
  assert not kept & settings.keys()
  assert settings.get("seeds", Sweep.seeds) >= 5
  assert len(settings.get("learning_rates", Sweep.learning_rates)) >= 3


@pytest.mark.parametrize("problem", SHOWN)
def test_committed_results_come_from_the_settings(problem):
  found = json.loads((page.RESULTS / problem / "results.json").read_text())
  settings = read_file(SETTINGS / f"{problem}.toml")
  settings.pop("data", None)
  methods = expand(settings.pop("methods"))
  assert set(found["rows"]) == {baseline_of(found)[0], *methods}
  assert found["settings"] | settings == found["settings"]
  assert found["settings"]["schedule"] == "cosine"
  assert found["settings"]["tuning_seeds"] >= 4
  assert found["settings"]["tuning_seeds_apart"]
  assert found["command"].startswith("python -m benchmarks.evidence")
  assert found["machine"]["processor"]


def test_pages_show_the_committed_results():
  texts = page.blocks(page.summaries())
  shown = set()
  for path in page.PAGES:
    text = path.read_text()
    assert page.filled(text, texts) == text
    shown |= {name for name in texts if f"<!-- {name} -->" in text}
  assert shown == set(texts)
  pictures = [page.RESULTS / f"{name}.png" for name in page.SUMMARIES]
  pictures += [page.RESULTS / problem / "delta_m.png" for problem in SHOWN]
  for picture in pictures:
    assert 10_000 < picture.stat().st_size < 300_000


@given(st.lists(st.lists(values, min_size=3, max_size=3), min_size=1, max_size=4))
def test_mean_rank_is_that_of_the_mean_delta_m(delta_m):
  names = ["dwa", "mgda", "slaw"]
  found = {
    str(at): comparison.compare(
      results_of({name: [x, x] for name, x in zip(names, row, strict=True)})
    )
    for at, row in enumerate(delta_m)
  }
  ranks = np.mean([rankdata(-np.array(row)) for row in delta_m], axis=0)
  expected = dict(zip(names, ranks, strict=True))
  assert page.mean_ranks(found, names) == pytest.approx(expected)


def test_table_has_the_best_rank_first_and_shows_edges_and_divergence():
  first = results_of({"dwa": [1, 3], "mgda": [4, 6], "slaw": [-9, -9]}, {"slaw"})
  second = results_of({"dwa": [2, 2], "mgda": [3, 3], "slaw": [np.nan, 1]})
  names = ["dwa", "mgda", "slaw"]
  found = page.compared({"one": first, "two": second})
  header, _, *lines = page.summary_table(found, names, names).splitlines()
  assert [cell.strip() for cell in header.split("|")[1:-1]] == [
    "method",
    "mean rank ↓",
    "one ↑",
    "two ↑",
  ]
  rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
  assert rows == [
    ["mgda", "1.0", "**5.0** (4.0 to 6.0)", "**3.0** (3.0 to 3.0)"],
    ["dwa", "2.0", "2.0 (1.0 to 3.0)", "2.0 (2.0 to 2.0)"],
    ["slaw", "3.0", "-9.0 (-9.0 to -9.0) (edge)", "diverged"],
  ]


def test_only_what_lies_between_the_marks_is_replaced():
  text = (
    "a\n<!-- one -->\nold\n<!-- end of one -->\nb\n<!-- two -->\n<!-- end of two -->"
  )
  once = page.filled(text, {"one": "new", "none": "x"})
  assert once == text.replace("old", "new")
  assert page.filled(once, {"one": "new"}) == once


def test_unknown_problems_are_rejected(capsys):
  with pytest.raises(SystemExit):
    evidence.main(["none-such"])
  assert "must be among burgers, digits" in capsys.readouterr().err
