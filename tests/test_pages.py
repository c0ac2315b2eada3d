"""The README and docs/: code runs, and numbers are those of the committed results."""

import ast
import json
import re
from pathlib import Path

import numpy as np
import pytest

import maxgnr_jax
from benchmarks.accuracy import residuals
from benchmarks.accuracy.solvers import report as solvers_report
from benchmarks.evidence import page
from benchmarks.experiments import comparison
from benchmarks.experiments.paper import batch_size
from benchmarks.experiments.sweep import read_summary
from benchmarks.speed import report as speed_report
from maxgnr_jax import aggregators
from maxgnr_jax._solvers import MOST_STEPS
from tests.helpers.methods import public_methods

pytestmark = pytest.mark.usefixtures("quick_compilation")
ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
DOCS = {path.stem: path.read_text() for path in sorted((ROOT / "docs").glob("*.md"))}
TEXT = "\n".join([README, *DOCS.values()])
RESULTS = ROOT / "benchmarks" / "results"
_STEADY = ("-sketch-127-smoothed-0.9", "-smoothed-0.9")


def load(name):
  return read_summary(RESULTS / name)


def compared(name, against="maxgnr-0.9"):
  """Compares the rows of a sweep with MaxGNR as it is by default, or with another."""
  return comparison.compare(load(name), against)


def errors_of(name):
  """Reads the errors of a sweep of an equation: row -> [seeds]."""
  rows = load(name)["rows"]
  return {row: np.array(found["test"]["last"]["error"]) for row, found in rows.items()}


def means_of(summary):
  """Averages the metrics of a sweep over seeds: row -> metric -> mean."""
  return {
    name: {metric: np.mean(seeds) for metric, seeds in row["test"]["last"].items()}
    for name, row in summary["rows"].items()
  }


def python_blocks(text):
  return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def run(blocks):
  namespace = {"__name__": "page"}
  for block in blocks:
    exec(block, namespace)


@pytest.mark.filterwarnings("default")  # flax raises some of its own
def test_the_readmes_loop_runs(standard_promotion, quick_compilation):
  blocks = python_blocks(README)
  assert len(blocks) == 1
  run(blocks)
  assert blocks[0] in DOCS["getting-started"]


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("page", [page for page in DOCS if python_blocks(DOCS[page])])
def test_the_python_blocks_of_a_page_run_in_order(
  page, standard_promotion, quick_compilation
):
  # They continue the first example.
  run([*python_blocks(README), *python_blocks(DOCS[page])])


@pytest.mark.parametrize(
  ("name", "module"),
  [
    ("residuals", residuals),
    ("solvers", solvers_report),
  ],
)
def test_tables_are_the_committed_results(name, module):
  summary = load(name)
  table = module.table(summary)
  assert (RESULTS / name / "table.md").read_text() == table + "\n"
  assert table in TEXT
  assert summary["command"].startswith("python -m benchmarks.")
  assert summary["machine"]["processor"]


def test_batch_sizes_are_the_committed_results():
  summary = load("batch_size")
  table = batch_size.table(summary)
  assert (RESULTS / "batch_size" / "table.md").read_text() == table + "\n"
  assert table in TEXT
  assert summary["data"] == "Fashion-MNIST"


def with_committed_tables(name, tables):
  """Reads measurements of speed, and checks that their tables are those of the code."""
  folder = RESULTS / name
  summary = json.loads((folder / "results.json").read_text())
  for table in tables:
    text = getattr(speed_report, table)(summary)
    assert (folder / f"{table}.md").read_text() == text + "\n"
  return summary


def test_times_of_updates_are_the_committed_results():
  summary = with_committed_tables("speed", speed_report.TABLES_OF_UPDATES)
  assert summary["command"].startswith("python -m benchmarks.")
  assert summary["machine"]["processor"]


def test_times_of_combined_gradients_are_the_committed_results():
  summary = with_committed_tables("speed-ways", speed_report.TABLES_OF_WAYS)
  for entry in summary["steps"]:
    runs = entry["runs"]
    assert runs["sketch"]["to_separate_passes"] < 1.1
    assert max(runs[name]["to_single"] for name in ("losses", "last_bias")) < 1.5


def test_times_between_refreshes_are_the_committed_results():
  folder = RESULTS / "speed-refresh"
  summary = json.loads((folder / "results.json").read_text())
  assert (folder / "table.md").read_text() == speed_report.refresh(summary) + "\n"


def minus(value):
  return f"{value:.1f}".replace("-", "−")


def test_what_the_text_says_of_parts_and_sketches_are_the_committed_results():
  rows, text = compared("digits"), " ".join(TEXT.split())
  for row, before in (("last-bias", "cost"), ("last-layer", "whole last layer")):
    paired = rows[f"maxgnr-0.9-{row}"]
    high, low = paired["difference_interval"]
    points = " points of Δm" if row == "last-bias" else ""
    says = f"{before} {-paired['difference']:.1f}{points} ({-low:.1f} to {-high:.1f})"
    assert says in text
  assert rows["maxgnr-0.9-last-layer-smoothed-0.9"]["difference_interval"][0] > 0
  for size in (127, 1021, 16381):
    low, high = rows[f"maxgnr-0.9-sketch-{size}"]["difference_interval"]
    assert low < 0 < high


def test_what_the_text_says_of_kept_weights_are_the_committed_results():
  rows, text = compared("digits"), " ".join(TEXT.split())
  every, same = (
    [minus(rows[name]["delta_m"]) for name in names]
    for names in (
      ("maxgnr-0.9", "maxgnr-0.9-every-4", "maxgnr-0.9-every-16"),
      ("maxgnr-0.66-every-4", "maxgnr-0.19-every-16"),
    )
  )
  assert "from {} to {} for n = 4 and {} for n = 16".format(*every) in text
  assert "helps for n = 4 ({}), but not for n = 16 ({})".format(*same) in text


def test_the_captions_ratios_are_the_committed_results():
  summary = load("digits")
  last, text = summary["last_epochs"], " ".join(README.split())
  smallest = {
    name: min(last[name]["gnr"].values()) for name in ("equal-weights", "maxgnr-0.9")
  }
  assert f"{smallest['equal-weights']:.1e} with equal weights" in text
  assert f"and {smallest['maxgnr-0.9']:.3f} with MaxGNR" in text
  steps = summary["settings"]["canvases_per_epoch"] // summary["settings"]["batch_size"]
  assert f"Over the last {10 * steps:,} steps" in text


def test_what_the_readme_says_of_wins_and_losses_are_the_committed_results():
  digits, fashion, short = (
    {name: row["delta_m"] for name, row in compared(problem).items()}
    for problem in ("digits", "fashion", "fashion-short")
  )
  for joint in (fashion, short):
    assert max(joint.values()) == joint["single-task"]
  for rows, best in (
    (digits, "maxgnr-0.9-smoothed-0.9-own-heads"),
    (fashion, "maxgnr-0.9-smoothed-0.9-own-heads"),
    (short, "uncertainty"),
  ):
    assert max(set(rows) - {"single-task"}, key=rows.get) == best


def test_what_the_text_says_of_the_fashion_pairs_are_the_committed_results():
  summary, text = load("fashion"), " ".join(TEXT.split())
  plain, own, dibs = "maxgnr-0.9", "maxgnr-0.9-own-heads", "dibs-mtl"
  own_heads = {own, *(f"maxgnr-0.9{end}-own-heads" for end in _STEADY)}
  above = compared("fashion", own)
  others = set(above) - own_heads - {"single-task"}
  assert max(above[name]["difference_interval"][1] for name in others) < 0
  for name in own_heads - {own}:
    low, high = above[name]["difference_interval"]
    assert low < 0 < high
  rows = compared("fashion")
  assert f"smoothing gains {rows[plain + '-smoothed-0.9']['difference']:.1f}" in text
  low, high = rows["slaw"]["difference_interval"]
  assert low < 0 < high
  assert all(-3 < rows[name]["difference"] < -1.5 for name in (dibs, "ngdiff"))
  found = means_of(summary)
  assert found[dibs]["canvas"] > found[plain]["canvas"]
  joint = set(found) - {"single-task"}
  for garments in ("left", "right"):
    most = sorted(joint, key=lambda name: -found[name][garments])
    assert set(most[:2]) == {dibs, "ngdiff"}
  by_rank = sorted(joint, key=lambda name: summary["rows"][name]["mean_rank"]["last"])
  assert set(by_rank[:2]) == {dibs, "ngdiff"}
  equal = compared("fashion", "equal-weights")["maxgnr-0.9-paper-solver"]
  low, high = equal["difference_interval"]
  assert low < 0 < high
  as_many = rows["maxgnr-0.66-every-4"]["difference"]
  assert as_many < rows["maxgnr-0.9-every-4"]["difference"] < -2


def test_what_the_text_says_of_the_summary_are_the_committed_results():
  _, found, ranked = page.summaries()["summary"]
  text, ranks = " ".join(TEXT.split()), page.mean_ranks(found, ranked)
  sketch, exact = (f"maxgnr-0.9{end}-own-heads" for end in _STEADY)
  assert f"rows are the {len(ranked)} joint models" in text
  assert f"among {len(ranked)} joint models ([Results]" in text
  best = sorted(ranked, key=ranks.get)
  assert best[0] == sketch
  assert all(name.startswith("maxgnr") for name in best[:6])
  assert best[6] == "slaw"
  for problem in page.SUMMARIES["summary"]:
    paired = compared(problem, exact)[sketch]
    low, high = paired["difference_interval"]
    if problem == "scm20d":
      assert low > 0
      assert f"{paired['difference']:.1f} points better on scm20d" in text
    else:
      assert low < 0 < high


def test_what_the_text_says_of_tox21_are_the_committed_results():
  rows, text = compared("tox21"), " ".join(TEXT.split())
  best, others = "maxgnr-0.9-smoothed-0.9-own-heads", set(rows) - {"single-task"}
  assert min(rows[name]["delta_m_interval"][0] for name in others) > 0
  found = load("tox21")["rows"]
  delta_m = {name: np.array(found[name]["delta_m"]["last"]) for name in rows}
  seeds = delta_m[best] - delta_m["equal-weights"]
  assert abs(seeds.mean()) < 0.1
  assert seeds.min() < 0 < seeds.max()
  behind = [rows[name] for name in ("uncertainty", "cagrad", "mgda")]
  assert all(row["difference_interval"][1] < 0 for row in behind)
  far = [-row["difference"] for row in behind]
  assert f"are {min(far):.1f} to {max(far):.1f} points behind plain MaxGNR" in text
  mean = {
    name: np.mean([np.mean(values) for values in row["test"]["last"].values()])
    for name, row in found.items()
  }
  logistic = json.loads((RESULTS / "tox21" / "logistic.json").read_text())["mean"]
  numbers = logistic, max(mean.values()), mean["single-task"]
  assert (
    "{:.1f} % mean ROC-AUC against {:.1f} % for the best joint model and {:.1f} % for "
    "single-task networks".format(*numbers)
  ) in text


def test_what_the_text_says_of_scm20d_are_the_committed_results():
  summary = load("scm20d")
  rows, text = comparison.compare(summary, "fairgrad-2"), " ".join(TEXT.split())
  others = set(rows) - {"single-task"}
  assert max(rows[name]["delta_m_interval"][1] for name in others) < 0
  close = [rows[name]["delta_m"] for name in others - {"mgda", "fixed-weights"}]
  assert max(close) - min(close) < 1
  assert max(others, key=lambda name: rows[name]["delta_m"]) == "fairgrad-2"
  ours, equal = rows["maxgnr-0.9-smoothed-0.9-own-heads"], rows["equal-weights"]
  assert ours["difference_interval"][1] < 0
  assert f"FairGrad comes first, {-ours['difference']:.1f} points ahead" in text
  assert f"(smoothed, own heads) by {-ours['difference']:.1f} points" in text
  sketch = rows["maxgnr-0.9-sketch-127-smoothed-0.9-own-heads"]["difference_interval"]
  assert sketch[0] < 0 < sketch[1]
  assert equal["difference_interval"][1] < 0
  assert f"equal weights are {-equal['difference']:.1f} points behind" in text


def test_the_default_number_of_steps_is_enough_by_the_committed_results():
  summary = load("solvers")
  steps = solvers_report.steps(summary)
  assert (RESULTS / "solvers" / "steps.md").read_text() == steps + "\n"
  measured = summary["steps"]
  assert measured["enough"] <= measured["default"] == MOST_STEPS
  worst = solvers_report.worst_of_steps(summary)
  text = " ".join(TEXT.split())
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


def test_what_the_text_says_of_classifications_and_ranks_are_the_committed_results():
  text, best = " ".join(TEXT.split()), "maxgnr-0.9-smoothed-0.9-own-heads"
  rows = load("digits")["rows"]
  equal, ours = (
    [f"{np.mean(rows[name]['test']['last'][task]):.1f}" for task in ("left", "right")]
    for name in ("equal-weights", best)
  )
  assert "(digits: {} and {} % right, MaxGNR without".format(*equal) in text
  assert "without a sketch {} and {} %)".format(*ours) in text
  assert (
    "{} and {} % right on the digits against {} and {} %".format(*equal, *ours) in text
  )
  rank = {name: row["mean_rank"]["last"] for name, row in rows.items()}
  assert len(rows) == 77
  assert rank[best] == rank["equal-weights"] == pytest.approx(77 / 2, abs=4)
  by_rank = sorted(set(rank) - {"single-task"}, key=rank.get)
  assert set(by_rank[:2]) == {"ngdiff", "maxgnr-0.97"}
  fashion = load("fashion")["rows"]
  for task in ("left", "right"):
    equal, ours = (
      np.mean(fashion[name]["test"]["last"][task]) for name in ("equal-weights", best)
    )
    assert equal > ours


def test_what_the_text_says_of_options_of_the_frame_are_the_committed_results():
  def signed(*values):
    return [f"{value:+.1f}".replace("-", "−") for value in values]

  text = " ".join(TEXT.split())
  adam = compared("digits")
  mean = {name: row["delta_m"] for name, row in adam.items()}
  plain, smoothed = "maxgnr-0.9", "maxgnr-0.9-smoothed-0.9"
  assert f"from {mean[plain]:.1f} to {mean[smoothed]:.1f}, by" in text
  gain = adam[smoothed]
  by, low, high = signed(gain["difference"], *gain["difference_interval"])
  assert f", by {by} ({low} to {high})" in text
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

  fashion = {name: row["delta_m"] for name, row in compared("fashion").items()}
  own, both = f"{plain}-own-heads", f"{smoothed}-own-heads"
  told = [f"{fashion[name]:.1f}" for name in (plain, smoothed, own, "uncertainty")]
  assert told[2] == f"{fashion[both]:.1f}"
  says = "from {} to {}, and own heads raise it to {}, with and without it; ".format
  says = f"{says(*told)}uncertainty weighting has {told[3]}."
  assert says.replace("-", "−") in text
  short = {name: row["delta_m"] for name, row in compared("fashion-short").items()}
  told = [f"{short[name]:.1f}" for name in ("uncertainty", plain, own)]
  says = "weighting {}, MaxGNR {}, with own heads {}".format(*told)
  assert says.replace("-", "−") in text
  assert short[smoothed] < short[plain]

  sgd = compared("digits-sgd")
  rescaled = [
    sgd[f"maxgnr-0.9{name}-rescaled"]["delta_m"] for name in ("", "-smoothed-0.9")
  ]
  assert "Δm from {:.1f} to {:.1f} (both".format(*rescaled) in text
  rate = {name: row["learning_rate"] for name, row in sgd.items()}
  assert f"of equal weights is {rate['equal-weights']}; that of MaxGNR is" in text
  for method, end in ((plain, " with `rescale`"), ("mgda", " with it")):
    assert f"is {rate[method]}, and {rate[method + '-rescaled']}{end}" in text
  assert f"from {rate['imtl-g']} to {rate['imtl-g-rescaled']}, and" in text
  assert sgd["imtl-g-rescaled"]["delta_m"] < sgd["imtl-g"]["delta_m"]


def test_what_the_text_says_of_rendered_rooms_are_the_committed_results():
  summary, text = load("scenes"), " ".join(TEXT.split())
  plain, smoothed = "maxgnr-0.9", "maxgnr-0.9-smoothed-0.9"
  best = f"{smoothed}-own-heads"
  rows, of_best = compared("scenes"), compared("scenes", best)
  joint = set(rows) - {"single-task"}
  assert max(rows[name]["delta_m_interval"][1] for name in joint) < 0
  assert max(joint, key=lambda name: rows[name]["delta_m"]) == "nash-mtl"
  for name in ("nash-mtl", "maxgnr-0.5", "slaw"):
    low, high = of_best[name]["difference_interval"]
    assert low < 0 < high
  for name in ("nash-mtl", "slaw"):
    assert rows[name]["difference_interval"][0] > 0
  sketch = of_best["maxgnr-0.9-sketch-127-smoothed-0.9-own-heads"]
  assert sketch["difference_interval"][1] < 0
  behind = f"{-sketch['difference']:.1f} points"
  for says in ("numbers is {} behind.", "second row and the sketch is {} behind;"):
    assert says.format(behind) in text
  for says in ("it is {} worse than the exact method", "but {} worse on the [rooms]"):
    assert says.format(behind) in text
  found = means_of(summary)
  normals = [found[name]["normal_mean"] for name in (best, "equal-weights")]
  assert "a mean error of {:.1f}°, equal weights {:.1f}°".format(*normals) in text
  for name in ("equal-weights", "dwa"):
    assert found[name]["depth_abs_err"] < found[best]["depth_abs_err"]
  weight = summary["last_epochs"][plain]["weight"]["normal"]
  assert weight == pytest.approx(0.8, abs=0.03)
  worse = rows[smoothed]
  low, high = worse["difference_interval"]
  says = f"it is {-worse['difference']:.1f} points worse than none ({-high:.1f} to "
  assert f"{says}{-low:.1f})" in text
  seeds = summary["rows"][smoothed]["delta_m"]["last"]
  assert f"with a run at −{-min(seeds):.0f}." in text
  told = [minus(rows[name]["delta_m"]) for name in (plain, smoothed, best)]
  says = "lowers MaxGNR's from {} to {}, and with own heads raises it to {}."
  assert says.format(*told) in text
  assert summary["rows"]["nash-mtl"]["learning_rate"] == 0.01
  rates = [summary["rows"][name]["learning_rate"] for name in joint]
  assert rates.count(0.03) > len(rates) / 2
  assert summary["rows"]["imtl-g"]["validation"]["0.03"] < -100


def test_what_the_text_says_of_the_helmholtz_equation_are_the_results():
  rows, text = compared("helmholtz"), " ".join(TEXT.split()).replace("−", "-")
  found, errors = load("helmholtz")["rows"], errors_of("helmholtz")
  solved = {"maxgnr-0", "maxgnr-0.5", "nash-mtl", "imtl-g"}
  unit = "maxgnr-0.9-unit-length"
  assert all(errors[name].max() < 0.1 for name in solved | {unit})
  numbers = errors[unit].mean(), errors["maxgnr-0.9"].mean()
  assert "is then {:.3f} in place of {:.3f}.".format(*numbers) in text
  for name in ("maxgnr-0.9", "maxgnr-0.97", "maxgnr-0.9-smoothed-0.9"):
    assert errors[name].max() > 0.9
  level = compared("helmholtz", "nash-mtl")
  for name in solved - {"nash-mtl"}:
    low, high = level[name]["difference_interval"]
    assert low < 0 < high
  far = {name: int((values > 0.9).sum()) for name, values in errors.items()}
  said = "{} of 5 errors are above 0.9 for γ = 0.9 and {} of 5 for uncertainty"
  assert said.format(far["maxgnr-0.9"], far["uncertainty"]) in text
  late = found["maxgnr-0.9-smoothed-0.99"]
  chosen_by = late["validation"][f"{late['learning_rate']:g}"]
  numbers = chosen_by, rows["maxgnr-0.9-smoothed-0.99"]["delta_m"]
  said = "Δm of {:+.0f} on the seeds that chose its learning rate, and {:.0f} on those"
  assert said.format(*numbers) in text
  smoothed = rows["maxgnr-0.9-smoothed-0.9"]
  low, high = (np.exp(-x / 100) for x in smoothed["difference_interval"][::-1])
  ratio = np.exp(-smoothed["difference"] / 100)
  assert f"error is {ratio:.2f} of what it is without smoothing" in text
  assert f"without smoothing ({low:.2f} to {high:.2f})" in text
  times = np.exp((rows["maxgnr-0"]["delta_m"] - smoothed["delta_m"]) / 100)
  assert 8 < times < 12  # "ten times that at γ = 0"


def test_what_the_text_says_of_the_burgers_equation_are_the_results():
  rows, text = compared("burgers", "equal-weights"), " ".join(TEXT.split())
  best = compared("burgers", "nash-mtl")
  others = set(rows) - {"nash-mtl"}
  assert all(best[name]["difference_interval"][1] < -50 for name in others)
  found, errors = load("burgers")["rows"], errors_of("burgers")
  names = "nash-mtl", "maxgnr-0.5", "fixed-weights", "equal-weights"
  said = "error of {:.3f}**, and was still gaining at the end; MaxGNR at γ = 0.5 has "
  said += "{:.3f}, the best of 16 random fixed weights {:.3f}, equal weights {:.3f}"
  assert said.format(*(errors[name].mean() for name in names)) in text
  assert found["nash-mtl"]["change_at_end"] > 100
  for name in ("maxgnr-0", "imtl-g", "jaxpi-grad-norm"):
    assert rows[name]["delta_m_interval"][1] < 0
  assert errors["uncertainty"].min() > 0.99
  mean = {name: values.mean() for name, values in errors.items()}
  said = (
    f"equal weights have an error of {mean['equal-weights-unit-length']:.3f}, γ = 0 "
    f"has {mean['maxgnr-0-unit-length']:.3f} in place of {mean['maxgnr-0']:.3f}, "
    f"IMTL-G {mean['imtl-g-unit-length']:.3f} in place of {mean['imtl-g']:.3f}, and "
    f"γ = 0.5 has {mean['maxgnr-0.5-unit-length']:.3f}."
  )
  assert said in text
  assert (errors["maxgnr-0.9-unit-length"] > 0.9).sum() == 1


def test_what_the_text_says_of_the_klein_gordon_equation_are_the_results():
  text, found = " ".join(TEXT.split()), load("klein-gordon")
  errors = errors_of("klein-gordon")
  fixed, unit = np.sort(errors["fixed-weights"]), errors["maxgnr-0-unit-length"]
  said = f"errors of {fixed[0]:.3f} to {fixed[3]:.3f} in four of five seeds**"
  assert f"The best of 16 random fixed weights have {said}" in text
  assert f"the equation is never learnt ({fixed[4]:.2f})" in text
  others = set(errors) - {"fixed-weights"}
  assert min(errors[name].min() for name in others) > fixed[3]
  assert len(found["weight_draws"]) == 16
  weight = found["rows"]["fixed-weights"]["weights"][found["tasks"].index("residual")]
  assert f"They give the residual a weight of {weight:.3f}." in text
  weight = found["last_epochs"]["maxgnr-0-unit-length"]["weight"]["residual"]
  assert f"equally long, ends with a weight of {weight:.5f}" in text
  mean = {name: values.mean() for name, values in errors.items()}
  assert f"with a mean error of {mean['equal-weights']:.3f}." in text
  said = f"Its errors of {unit.min():.3f} to {unit.max():.3f}, with a mean of "
  assert f"{said}{unit.mean():.3f}, are nevertheless the smallest" in text
  said = f"Nash-MTL has {mean['nash-mtl']:.3f}, γ = 0.9 has {mean['maxgnr-0.9']:.3f}."
  assert said in text
  assert min(others, key=mean.get) == "maxgnr-0-unit-length"
  assert errors["uncertainty"].min() > 1


def test_what_the_text_says_of_all_equations_are_the_results():
  nash, gamma_0 = "nash-mtl", "maxgnr-0-unit-length"
  ahead = {
    problem: compared(problem, nash)[gamma_0]["difference_interval"]
    for problem in page.SUMMARIES["equations"]
  }
  assert ahead["helmholtz"][0] < 0 < ahead["helmholtz"][1]
  assert ahead["klein-gordon"][0] > 0
  assert ahead["burgers"][1] < 0
  for problem in ahead:
    of_row = compared(problem, "equal-weights")
    assert of_row["maxgnr-0.5"]["delta_m_interval"][0] > 0
    low, high = of_row["maxgnr-0.9"]["delta_m_interval"]
    assert low > 0 if problem == "klein-gordon" else low < 0 < high
  _, ranked, names = page.summaries()["equations"]
  ranks = page.mean_ranks(ranked, names)
  plain = [name for name in names if not name.endswith("-unit-length")]
  ours = [name for name in plain if name.startswith("maxgnr")]
  assert min(ours, key=ranks.get) == "maxgnr-0.5"
  assert sorted(names, key=ranks.get)[:2] == [gamma_0, nash]


def test_what_the_text_says_of_updates_of_one_length_are_the_results():
  better, smoothed = {}, "maxgnr-0.9-smoothed-0.9"
  for problem in page.SUMMARIES["equations"]:
    names = [name for name in load(problem)["rows"] if name.endswith("-unit-length")]
    assert len(names) == 6
    low, high = np.transpose(
      [
        compared(problem, name.removesuffix("-unit-length"))[name][
          "difference_interval"
        ]
        for name in names
      ]
    )
    assert (high > 0).all()
    gained = np.array(names)[low > 0]
    better[problem] = {name.removesuffix("-unit-length") for name in gained}
  assert better["helmholtz"] == {"equal-weights", "maxgnr-0.9"}
  assert better["klein-gordon"] == {"imtl-g", smoothed}
  assert better["burgers"] == {"equal-weights", "maxgnr-0", "imtl-g", smoothed}


def test_what_the_text_says_of_groups_of_tasks_are_the_committed_results():
  found = load("digits-grouping")
  text = " ".join(TEXT.split()).replace("−", "-")
  within, groups = (
    next(values for what, values in found["correlations"].items() if what.endswith(end))
    for end in ("mean over its groups", "mean share in a group")
  )
  low, high = within["spearman_interval"]
  interval = f"{within['spearman']:+.2f} (95 % interval {low:+.2f} to {high:+.2f})"
  assert interval in text
  assert f"nothing about the group ({groups['spearman']:.2f})" in text
  of_size = found["correlations"][
    "mean share in a group, less the mean of groups of its size"
  ]
  low, high = of_size["spearman_interval"]
  assert f"{of_size['spearman']:+.2f} ({low:+.2f} to {high:+.2f})" in text
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


def test_every_aggregator_is_in_the_table_of_methods():
  listed = set(re.findall(r"^\| `(\w+)\(", DOCS["methods"], re.MULTILINE))
  factories = public_methods()
  weightings = {name for name in factories if name.removesuffix("_weights") in listed}
  assert factories - weightings <= listed
  assert listed <= factories


def test_what_the_text_says_of_groups_of_scm20d_are_the_committed_results():
  found = load("scm20d-grouping")
  text = " ".join(TEXT.split()).replace("−", "-")
  of_size = next(
    values
    for what, values in found["correlations"].items()
    if what.endswith("its size")
  )
  low, high = of_size["spearman_interval"]
  assert f"gain less, {of_size['spearman']:.2f} ({low:.2f} to {high:.2f})," in text
  own = found["correlations"][
    "share that a task retains, less the task's mean over its groups"
  ]
  own_low, own_high = own["spearman_interval"]
  said = f"says little, {own['spearman']:+.2f} ({own_low:+.2f} to {own_high:+.2f})"
  assert said in text
  assert high < 0
  proposed, *others = (np.mean(division["change"]) for division in found["divisions"])
  assert f"are proposed, {proposed:.1f} %, are the worst of" in text
  assert f"({np.mean(others):.1f} % on average for the others)" in text
  assert proposed < min(others)
  pairs = [group for group in found["groups"] if len(group["tasks"]) == 2]
  assert (len(pairs), len(found["groups"])) == (30, 54)


def test_every_public_name_is_in_the_reference():
  reference = (ROOT / "docs" / "api" / "index.md").read_text()
  listed = re.findall(r"^   (\w+)$", reference, re.MULTILINE)
  names = ["plot_interference"]
  for module in (maxgnr_jax, aggregators):
    tree = ast.parse(Path(module.__file__).read_text())
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    names += [alias.asname for node in imports for alias in node.names]
  assert sorted(listed) == sorted(names)


def test_the_readme_is_read_to_its_end():
  assert len(README.splitlines()) <= 150
