"""The README: its code runs, and its numbers are those of the committed results."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from benchmarks.accuracy import residuals
from benchmarks.accuracy.solvers import report as solvers_report
from benchmarks.experiments import comparison, report, tables
from benchmarks.experiments.metric import mean_and_error
from benchmarks.experiments.paper import batch_size
from benchmarks.experiments.problems.scenes import paper
from benchmarks.speed import report as speed_report
from maxgnr_jax._solvers import MOST_STEPS
from tests.helpers.methods import public_methods

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
RESULTS = ROOT / "benchmarks" / "results"


def compared(name):
  """Compares the rows of a sweep with MaxGNR as it is by default."""
  summary = json.loads((RESULTS / name / "results.json").read_text())
  return comparison.compare(summary, "maxgnr-0.9")


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
  [
    ("digits", None),
    ("digits-all", None),
    ("scenes", paper.TABLE_2),
    ("fashion", None),
    ("scm20d", None),
  ],
)
def test_the_readmes_tables_of_experiments_are_the_committed_results(name, reference):
  folder = RESULTS / name
  summary = json.loads((folder / "results.json").read_text())
  assert (folder / "table.md").read_text() == report.text(summary, reference) + "\n"
  for judged in ("last", "best"):
    latex = tables.latex(summary, judged, reference)
    assert (folder / f"table_{judged}.tex").read_text() == latex + "\n"
  assert tables.markdown(summary, "last") in README
  problem = name.removesuffix("-all")
  command = f"python -m benchmarks.experiments {problem} sweep "
  assert summary["command"].startswith(command)
  assert summary["settings"]["validation"] > 0
  assert summary["settings"]["seeds"] >= 3
  assert summary["machine"]["processor"]


def test_the_readmes_batch_sizes_are_the_committed_results():
  summary = json.loads((RESULTS / "batch_size" / "results.json").read_text())
  table = batch_size.table(summary)
  assert (RESULTS / "batch_size" / "table.md").read_text() == table + "\n"
  assert table in README
  assert summary["data"] == "Fashion-MNIST"


def test_the_readmes_times_of_combined_gradients_are_the_committed_results():
  folder = RESULTS / "speed-ways"
  summary = json.loads((folder / "results.json").read_text())
  for name in speed_report.TABLES_OF_WAYS:
    table = getattr(speed_report, name)(summary)
    assert (folder / f"{name}.md").read_text() == table + "\n"
  assert speed_report.ways(summary) in README
  for entry in summary["steps"]:
    runs = entry["runs"]
    assert runs["sketch"]["to_separate_passes"] < 1.1
    assert max(runs[name]["to_single"] for name in ("losses", "last_bias")) < 1.5


def test_the_readmes_times_between_refreshes_are_the_committed_results():
  folder = RESULTS / "speed-refresh"
  summary = json.loads((folder / "results.json").read_text())
  table = speed_report.refresh(summary)
  assert (folder / "table.md").read_text() == table + "\n"
  assert table in README


def test_what_the_text_says_of_parts_and_sketches_are_the_committed_results():
  rows, text = compared("digits-measured"), " ".join(README.split())
  for row, before in (("last-bias", "cost"), ("last-layer", "whole last layer")):
    paired = rows[f"maxgnr-0.9-{row}"]
    high, low = paired["difference_interval"]
    points = " points of Δm" if row == "last-bias" else ""
    says = f"{before} {-paired['difference']:.1f}{points} ({-low:.1f} to {-high:.1f})"
    assert says in text
  for size in (127, 1021, 16381):
    low, high = rows[f"maxgnr-0.9-sketch-{size}"]["difference_interval"]
    assert low < 0 < high
  others = [name for name in rows if not name.startswith(("maxgnr", "single"))]
  best = max(rows[name]["delta_m"] for name in others)
  assert best < min(rows[f"maxgnr-0.9-last-{x}"]["delta_m"] for x in ("bias", "layer"))


def test_the_captions_ratios_are_the_committed_results():
  summary = json.loads((RESULTS / "digits" / "results.json").read_text())
  smallest = {
    name: min(values["gnr"].values()) for name, values in summary["last_epochs"].items()
  }
  assert f"{smallest['equal-weights']:.5f} with equal weights" in README
  assert f"and {smallest['maxgnr-0.9']:.3f} with MaxGNR" in README


def test_what_the_text_says_of_the_digits_are_the_committed_results():
  summary = json.loads((RESULTS / "digits" / "results.json").read_text())
  rows = {
    name: {metric: np.mean(values) for metric, values in row["test"]["last"].items()}
    for name, row in summary["rows"].items()
  }
  single, equal, ours = (
    rows[name] for name in ("single-task", "equal-weights", "maxgnr-0.9")
  )
  regained = {
    metric: 100 * (equal[metric] - ours[metric]) / (equal[metric] - single[metric])
    for metric in ("canvas", "ink")
  }
  paid = {metric: equal[metric] - ours[metric] for metric in ("left", "right")}
  text = " ".join(README.split())
  assert f"takes back {regained['canvas']:.0f} % of the error that equal" in text
  assert f"on the canvas and {regained['ink']:.0f} % on the ink" in text
  assert f"pays with {paid['left']:.1f} and {paid['right']:.1f} points" in text
  every = json.loads((RESULTS / "digits-all" / "results.json").read_text())["rows"]
  kept = [
    mean_and_error(every[name]["delta_m"]["last"], 1).replace("-", "−")
    for name in ("maxgnr-0.9-every-4", "maxgnr-0.9-every-16", "maxgnr-0.9")
  ]
  assert f"spread: {kept[0]} and {kept[1]}, against {kept[2]} in every step" in text


def test_the_default_number_of_steps_is_enough_by_the_committed_results():
  summary = json.loads((RESULTS / "solvers" / "results.json").read_text())
  steps = solvers_report.steps(summary)
  assert (RESULTS / "solvers" / "steps.md").read_text() == steps + "\n"
  measured = summary["steps"]
  assert measured["enough"] <= measured["default"] == MOST_STEPS
  worst = solvers_report.worst_of_steps(summary)
  text = " ".join(README.split())
  for count in (measured["enough"], measured["default"]):
    assert f"{count} steps reach {worst[count]:.5f}" in text
  assert f"with {measured['default']} projected Newton steps" in text
  problems = {entry["problems"] for entry in measured["fraction_of_optimum"]}
  assert f"the worst of {problems.pop():,} problems" in text
  took = {
    (entry["solver"], entry["tasks"]): f"{entry['median']:.0f}"
    for entry in measured["times"]
  }
  newton, gradient = (
    [took[solver, num_tasks] for num_tasks in (3, 100)]
    for solver in ("projected_newton()", "projected_gradient()")
  )
  assert f"takes {newton[0]} µs at K = 3 and {newton[1]} µs at K = 100" in text
  assert f"take {gradient[0]} and {gradient[1]} µs" in text


def test_what_the_text_says_of_options_of_the_frame_are_the_committed_results():
  def signed(*values):
    return [f"{value:+.1f}".replace("-", "−") for value in values]

  text = " ".join(README.split())
  adam = compared("digits-frame")
  mean = {name: row["delta_m"] for name, row in adam.items()}
  plain, smoothed = "maxgnr-0.9", "maxgnr-0.9-smoothed-0.9"
  assert f"from {mean[plain]:.1f} to {mean[smoothed]:.1f} for MaxGNR" in text
  gain = adam[smoothed]
  by, low, high = signed(gain["difference"], *gain["difference_interval"])
  assert f"by {by} ({low} to {high})" in text
  low, high = adam["maxgnr-0.9-smoothed-0.99"]["difference_interval"]
  assert low < 0 < high  # "no better than none"
  assert f"own heads, as below, it is {mean[smoothed + '-own-heads']:.1f}" in text
  gains = [
    mean[f"{name}-smoothed-0.9{heads}"] - mean[name]
    for name, heads in (
      ("imtl-g", ""),
      ("nash-mtl", "-own-heads"),
      ("mgda", "-own-heads"),
    )
  ]
  assert "IMTL-G {:.1f}, Nash-MTL {:.1f} and MGDA {:.1f} points".format(*gains) in text

  fashion = {name: row["delta_m"] for name, row in compared("fashion-frame").items()}
  told = [fashion[name] for name in (plain, smoothed, f"{plain}-own-heads")]
  told = [f"{value:.1f}".replace("-", "−") for value in (*told, fashion["uncertainty"])]
  assert "from {} to {}, while own heads alone raise it to {};".format(*told) in text
  assert f"weighting is best there with {told[3]}." in text
  joint = {name for name in fashion if name != "single-task"}
  assert max(joint, key=fashion.get) == "uncertainty"

  sgd = compared("digits-sgd")
  rescaled = [
    sgd[f"maxgnr-0.9{name}-rescaled"]["delta_m"] for name in ("", "-smoothed-0.9")
  ]
  assert f"Δm from {rescaled[0]:.1f} to {abs(rescaled[1]):.1f} (both" in text
  assert round(rescaled[1], 1) == 0
  rate = {name: row["learning_rate"] for name, row in sgd.items()}
  assert f"of equal weights is {rate['equal-weights']}; that of MaxGNR is" in text
  for method, end in ((plain, " with `rescale`"), ("mgda", " with it")):
    assert f"is {rate[method]}, and {rate[method + '-rescaled']}{end}" in text
  assert f"from {rate['imtl-g']} to {rate['imtl-g-rescaled']}, and" in text
  assert sgd["imtl-g-rescaled"]["delta_m"] < sgd["imtl-g"]["delta_m"]


def test_what_the_text_says_of_the_physics_informed_network_are_the_results():
  rows = compared("helmholtz")
  smoothed = rows["maxgnr-0.9-smoothed-0.9"]
  low, high = (np.exp(-x / 100) for x in smoothed["difference_interval"][::-1])
  ratio = np.exp(-smoothed["difference"] / 100)
  text = " ".join(README.split())
  assert f"error is {ratio:.2f} of what it is without smoothing" in text
  assert f"without smoothing ({low:.2f} to {high:.2f})" in text
  assert max(rows, key=lambda name: rows[name]["delta_m"]) == "uncertainty"
  assert smoothed["delta_m_interval"][0] < 0 < smoothed["delta_m_interval"][1]


def test_what_the_text_says_of_groups_of_tasks_are_the_committed_results():
  found = json.loads((RESULTS / "digits-grouping" / "results.json").read_text())
  text = " ".join(README.split()).replace("−", "-")
  within, groups = (
    next(values for what, values in found["correlations"].items() if what.endswith(end))
    for end in ("mean over its groups", "mean share in a group")
  )
  low, high = within["spearman_interval"]
  interval = f"{within['spearman']:+.2f} (95 % interval {low:+.2f} to {high:+.2f})"
  assert interval in text
  assert f"nothing about the group ({groups['spearman']:.2f})" in text
  assert groups["spearman_interval"][0] < 0 < groups["spearman_interval"][1]
  proposed, *others = (np.mean(division["change"]) for division in found["divisions"])
  assert f"{proposed:.1f} % against {np.mean(others):+.1f} % for the others" in text
  assert proposed < min(others)


def test_files_linked_from_the_readme_exist():
  links = re.findall(r"\]\(([^)#]+)\)", README)
  files = [link for link in links if not link.startswith("https://")]
  assert files
  for file in files:
    assert (ROOT / file).exists(), file


def test_every_aggregator_is_in_the_readmes_table_of_methods():
  listed = set(re.findall(r"^\| `(\w+)\(", README, re.MULTILINE))
  factories = public_methods()
  weightings = {name for name in factories if name.removesuffix("_weights") in listed}
  assert factories - weightings <= listed
  assert listed <= factories


def test_the_readme_names_the_digits_rows_whose_rate_is_at_an_edge_of_the_grid():
  summary = json.loads((RESULTS / "digits-all" / "results.json").read_text())
  rates = summary["settings"]["learning_rates"]
  rows = [
    f"`{name}`"
    for name, row in summary["rows"].items()
    if row.get("learning_rate") in (min(rates), max(rates))
  ]
  assert f"not fully tuned: {', '.join(rows)}." in " ".join(README.split())


def test_what_the_text_says_of_groups_of_scm20d_are_the_committed_results():
  found = json.loads((RESULTS / "scm20d-grouping" / "results.json").read_text())
  text = " ".join(README.split()).replace("−", "-")
  of_size = next(
    values
    for what, values in found["correlations"].items()
    if what.endswith("its size")
  )
  low, high = of_size["spearman_interval"]
  assert f"gain less, {of_size['spearman']:.2f} ({low:.2f} to {high:.2f})," in text
  assert high < 0
  proposed, *others = (np.mean(division["change"]) for division in found["divisions"])
  assert f"are proposed, {proposed:.1f} %, are the worst of" in text
  assert f"({np.mean(others):.1f} % on average for the others)" in text
  assert proposed < min(others)
  pairs = [group for group in found["groups"] if len(group["tasks"]) == 2]
  assert (len(pairs), len(found["groups"])) == (30, 54)
