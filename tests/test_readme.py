"""The README: its code runs, and its numbers are those of the committed results."""

import inspect
import json
import re
from pathlib import Path

import pytest

from benchmarks.accuracy import residuals
from benchmarks.accuracy.solvers import report as solvers_report
from benchmarks.experiments import tables
from benchmarks.experiments.paper import batch_size
from benchmarks.experiments.problems.digits import report
from benchmarks.experiments.problems.scenes import paper
from benchmarks.speed import report as speed_report
from maxgnr_jax import aggregators, projected_gradient

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
RESULTS = ROOT / "benchmarks" / "results"


@pytest.mark.filterwarnings("default")  # flax raises some of its own
def test_the_readmes_python_blocks_run_in_order(standard_promotion, quick_compilation):
  blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
  assert len(blocks) >= 2
  namespace = {"__name__": "readme"}
  for block in blocks:
    exec(block, namespace)


@pytest.mark.parametrize(
  ("name", "module"),
  [
    ("digits", report),
    ("digits-all", report),
    ("digits-refresh", report),
    ("digits-noise", report),
    ("residuals", residuals),
    ("solvers", solvers_report),
    ("speed", speed_report),
  ],
)
def test_the_readmes_tables_are_the_committed_results(name, module):
  summary = json.loads((RESULTS / name / "results.json").read_text())
  table = module.table(summary)
  assert (RESULTS / name / "table.md").read_text() == table + "\n"
  assert table in README
  assert summary["command"].startswith("python -m benchmarks.")
  assert summary["machine"]["processor"]


@pytest.mark.parametrize(
  ("name", "reference"),
  [("scenes", paper.TABLE_2), ("fashion", None), ("scm20d", None)],
)
def test_the_readmes_tables_of_experiments_are_the_committed_results(name, reference):
  folder = RESULTS / name
  summary = json.loads((folder / "results.json").read_text())
  assert (folder / "table.md").read_text() == tables.whole(summary, reference) + "\n"
  for judged in ("last", "best"):
    latex = tables.latex(summary, judged, reference)
    assert (folder / f"table_{judged}.tex").read_text() == latex + "\n"
  assert tables.markdown(summary, "last") in README
  assert summary["command"].startswith(
    f"python -m benchmarks.experiments.problems.{name} sweep "
  )
  assert summary["settings"]["validation"] > 0
  assert summary["settings"]["seeds"] >= 3
  assert summary["machine"]["processor"]


def test_the_readmes_batch_sizes_are_the_committed_results():
  summary = json.loads((RESULTS / "batch_size" / "results.json").read_text())
  table = batch_size.table(summary)
  assert (RESULTS / "batch_size" / "table.md").read_text() == table + "\n"
  assert table in README
  assert summary["data"] == "Fashion-MNIST"


def test_the_readmes_times_of_train_steps_are_the_committed_results():
  folder = RESULTS / "speed-steps"
  summary = json.loads((folder / "results.json").read_text())
  for name in ("steps", "task_grads"):
    table = getattr(speed_report, name)(summary)
    assert (folder / f"{name}.md").read_text() == table + "\n"
  assert speed_report.steps(summary) in README
  every = [entry["runs"] for entry in summary["task_grads"]]
  vmap = [runs["vmap"]["to_written_out"] for runs in every]
  loop = [runs["sequential"]["to_written_out"] for runs in every]
  text = " ".join(README.split())
  assert f"took {min(vmap):.1f} to {max(vmap):.1f} times as long" in text
  assert f"a loop (`tasks_at_once=1`) {min(loop):.1f} to {max(loop):.0f} times" in text


def test_the_readmes_times_between_refreshes_are_the_committed_results():
  folder = RESULTS / "speed-refresh"
  summary = json.loads((folder / "results.json").read_text())
  table = speed_report.refresh(summary)
  assert (folder / "table.md").read_text() == table + "\n"
  assert table in README


def test_the_captions_ratios_are_the_committed_results():
  summary = json.loads((RESULTS / "digits" / "results.json").read_text())
  smallest = {
    name: min(entry["final_gnr"].values()) for name, entry in summary["methods"].items()
  }
  assert f"{smallest['equal-weights']:.5f} with equal weights" in README
  assert f"and {smallest['maxgnr-0.9']:.3f} with MaxGNR" in README


def test_the_default_number_of_steps_is_enough_by_the_committed_results():
  summary = json.loads((RESULTS / "solvers" / "results.json").read_text())
  steps = solvers_report.steps(summary)
  assert (RESULTS / "solvers" / "steps.md").read_text() == steps + "\n"
  measured = summary["steps"]
  parameter = inspect.signature(projected_gradient).parameters["num_steps"]
  assert measured["enough"] <= measured["default"] == parameter.default
  worst = solvers_report.worst_of_steps(summary)
  for count in (measured["enough"], measured["default"]):
    assert f"{count} steps reach {worst[count]:.5f}" in README
  took = {entry["tasks"]: entry["median"] for entry in measured["microseconds"]}
  assert f"takes {took[3]:.0f} µs at K = 3 and {took[100]:.0f} µs at K = 100" in README


def test_files_linked_from_the_readme_exist():
  links = re.findall(r"\]\(([^)#]+)\)", README)
  files = [link for link in links if not link.startswith("https://")]
  assert files
  for file in files:
    assert (ROOT / file).exists(), file


def test_every_aggregator_is_in_the_readmes_table_of_methods():
  listed = set(re.findall(r"^\| `(\w+)\(", README, re.MULTILINE))
  exported = {name for name in dir(aggregators) if not name.startswith("_")}
  factories = {
    name
    for name in exported
    if callable(getattr(aggregators, name)) and not name.endswith("State")
  }
  weightings = {name for name in factories if name.removesuffix("_weights") in listed}
  assert factories - weightings <= listed
  assert listed <= factories
