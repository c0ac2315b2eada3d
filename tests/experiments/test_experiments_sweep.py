"""Tests sweeps: which rates they choose, and how they summarise and report runs."""

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import rankdata

from benchmarks import methods
from benchmarks.experiments import runner, tables
from benchmarks.experiments import sweep as sweeps
from benchmarks.experiments.checkpoint import Best, load_model
from benchmarks.experiments.metric import (
  Metric,
  delta_m,
  mean_over_seeds,
  mean_ranks,
)
from benchmarks.experiments.model import Model
from benchmarks.experiments.problems.fashion import problem as fashion
from benchmarks.experiments.report import Report, report, settings_of
from benchmarks.experiments.rows import SETS
from benchmarks.experiments.step import Trainer
from tests.helpers.experiments import (
  TASKS,
  TinyRun,
  of_two_tasks,
  tiny_sweep,
  write_images,
)
from tests.helpers.trees import assert_same

SIGNS = {"ink": -1, "left": 1}
METHODS = ("equal-weights", "maxgnr-0.9")
RATES = (0.03, 0.001)
ERROR, ACCURACY = (
  Metric("error", "one", "error", -1, 2),
  Metric("accuracy", "two", "accuracy", 1, 1),
)
UNUSED = Metric("unused", "two", "unused", 1, 1, in_delta_m=False)


def test_delta_m_agrees_with_a_hand_computed_value():
  base = {"error": -2.0, "accuracy": 50.0, "unused": 1.0}
  values = {"error": -2.5, "accuracy": 40.0, "unused": 9.0}
  # The error falls by 25 % of its size, which is better; the accuracy falls by 20 %.
  assert delta_m(values, base, [ERROR, ACCURACY, UNUSED]) == pytest.approx(2.5)
  assert delta_m(base, base, [ERROR, ACCURACY]) == 0
  assert delta_m(values, base | {"error": 0.0}, [ERROR]) == np.inf
  assert np.isnan(delta_m({"error": 0.0}, {"error": 0.0}, [ERROR]))


def test_metric_that_differs_by_orders_is_compared_by_its_ratio():
  metric = ERROR._replace(by_ratio=True)
  found = delta_m({"error": 0.1}, {"error": 10.0}, [metric])
  assert found == pytest.approx(100 * np.log(100))
  for change in (0.999, 1.001):  # small changes are the same either way
    values, base = {"error": 2 * change}, {"error": 2.0}
    expected = delta_m(values, base, [ERROR])
    assert delta_m(values, base, [metric]) == pytest.approx(expected, abs=1e-4)
  runs = [{"error": x, "accuracy": x} for x in (0.01, 1.0)]
  found = mean_over_seeds(runs, [metric, ACCURACY])
  assert found == pytest.approx({"error": 0.1, "accuracy": 0.505})


# With few distinct values, ties are common.
value = st.sampled_from([-1.0, 0.0, 0.5, 2.0, float("nan")])


@given(st.lists(st.tuples(value, value), min_size=1, max_size=7))
def test_mean_ranks_agree_with_scipy(rows):
  rows = [{"error": e, "accuracy": a, "unused": 0.0} for e, a in rows]
  ranks = [
    rankdata([np.nan_to_num(-m.sign * row[m.name], nan=np.inf) for row in rows])
    for m in (ERROR, ACCURACY)
  ]
  found = mean_ranks(rows, [ERROR, ACCURACY, UNUSED])
  np.testing.assert_allclose(found, np.mean(ranks, axis=0))


def test_diverged_rows_have_the_last_rank():
  rows = [{"error": x} for x in (float("nan"), 1e30, 2.0)]
  assert mean_ranks(rows, [ERROR]) == [3, 2, 1]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  return write_images(tmp_path_factory.mktemp("data"))


def make_settings(data, out, **options):
  chosen = {"methods": METHODS, "learning_rates": RATES, "seeds": 2, "jobs": 2}
  chosen |= {"most_extensions": 0}
  return tiny_sweep(data, out, validation=0.25, **chosen | options)


@pytest.fixture(scope="module")
def model(data, tmp_path_factory, quick_experiments):
  settings = make_settings(data, tmp_path_factory.mktemp("unused"))
  return Model(of_two_tasks(fashion.make_problem(settings)))


@pytest.fixture(scope="module")
def trainers(model):
  """Trainers by method and task, which all sweeps share because they compile slowly."""
  made = {}
  make = runner.make_trainer

  def make_once(model, run):
    key = run.method_name, run.tasks
    if key not in made:
      made[key] = make(model, run)
    return made[key]

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(runner, "make_trainer", make_once)
    yield made


@pytest.fixture(scope="module")
def done(model, data, trainers, tmp_path_factory):
  """Runs a sweep and returns its settings and its summary."""
  settings = make_settings(data, tmp_path_factory.mktemp("sweep") / "out")
  return settings, sweeps.sweep(model, settings, TinyRun)


def results_of(out):
  """Reads the results of all runs, by row, learning rate and seed."""
  found = {}
  for path in (out / "runs").glob("*/*/*/result.json"):
    row, rate, seed = path.parts[-4:-1]
    rate, seed = float(rate.removeprefix("lr-")), int(seed.removeprefix("seed-"))
    found[row, rate, seed] = json.loads(path.read_text())
  return found


def test_learning_rates_are_chosen_on_validation_data(done):
  settings, summary = done
  results = results_of(settings.out)
  base = {}
  chosen = {}
  for task in TASKS:
    row = f"single-task-{task}"
    values = [results[row, rate, 0]["last"]["validation"][task] for rate in RATES]
    best = int(np.argmax([SIGNS[task] * x for x in values]))
    base[task], chosen[row] = values[best], RATES[best]
    assert summary["rows"]["single-task"]["learning_rates"][task] == RATES[best]
  for row in METHODS:
    scores = []
    for rate in RATES:
      values = results[row, rate, 0]["last"]["validation"]
      changes = [SIGNS[t] * (values[t] - base[t]) / base[t] for t in TASKS]
      scores.append(100 * sum(changes) / 2)
    chosen[row] = RATES[int(np.argmax(scores))]
    assert summary["rows"][row]["learning_rate"] == chosen[row]
    expected = {f"{rate:g}": x for rate, x in zip(RATES, scores, strict=True)}
    assert summary["rows"][row]["validation"] == pytest.approx(expected)
  # The first seed is run with both rates, other seeds with the chosen rate only.
  runs = {(row, rate, 0) for row in chosen for rate in RATES}
  assert set(results) == runs | {(row, rate, 1) for row, rate in chosen.items()}


@pytest.mark.parametrize("judged", ["last", "best"])
def test_summary_holds_test_results_by_seed_and_mean_ranks(judged, done):
  settings, summary = done
  results = results_of(settings.out)
  rows = summary["rows"]

  def values(row, rate, task):
    return [results[row, rate, seed][judged]["test"][task] for seed in (0, 1)]

  rates = rows["single-task"]["learning_rates"]
  single = {t: values(f"single-task-{t}", rates[t], t) for t in TASKS}
  found = {"single-task": single} | {
    method: {t: values(method, rows[method]["learning_rate"], t) for t in TASKS}
    for method in METHODS
  }
  means = {t: np.mean(single[t]) for t in TASKS}
  for name, expected in found.items():
    assert rows[name]["test"][judged] == expected
    changes = [SIGNS[t] * (np.array(expected[t]) / means[t] - 1) for t in TASKS]
    np.testing.assert_allclose(
      rows[name]["delta_m"][judged], 100 * np.mean(changes, axis=0), atol=1e-9
    )
  ranks = [
    rankdata([-SIGNS[t] * np.mean(of_row[t]) for of_row in found.values()])
    for t in TASKS
  ]
  np.testing.assert_allclose(
    [row["mean_rank"][judged] for row in rows.values()], np.mean(ranks, axis=0)
  )


def test_single_task_run_trains_only_the_head_of_its_task(done, trainers):
  settings, summary = done
  for task, other in (TASKS, TASKS[::-1]):
    rate = summary["rows"]["single-task"]["learning_rates"][task]
    folder = settings.out / "runs" / f"single-task-{task}" / f"lr-{rate:g}"
    initial = trainers["equal-weights", (task,)].init(1, rate)
    like = Best(np.array(0.0), np.array(0), initial.params, initial.rest)
    heads = load_model(folder / "seed-1" / "model", like).params["heads"]
    # The other task's loss would have changed the other task's head.
    assert_same(heads[other], initial.params["heads"][other])
    moved = heads[task]["kernel"][...] != initial.params["heads"][task]["kernel"][...]
    assert moved.any()


def test_finished_sweep_is_not_trained_again(done, model, monkeypatch):
  settings, summary = done
  written = (settings.out / "results.json").read_text()
  monkeypatch.setattr(Trainer, "step", None)
  assert sweeps.sweep(model, settings, TinyRun) == summary
  assert (settings.out / "results.json").read_text() == written


class Interruption(Exception):
  pass


def test_interrupted_sweep_resumes_and_gives_the_same_summary(
  done, model, tmp_path, monkeypatch
):
  settings, summary = done
  out = tmp_path / "out"
  shutil.copytree(settings.out, out)
  written = (out / "results.json").read_text()
  (out / "results.json").unlink()
  for rate in RATES:
    shutil.rmtree(out / "runs" / "maxgnr-0.9" / f"lr-{rate:g}" / "seed-0")
  settings = dataclasses.replace(settings, out=out, jobs=1)
  step, steps = Trainer.step, []

  def step_or_stop(self, *args):
    steps.append(self)
    if len(steps) == 5:
      raise Interruption
    return step(self, *args)

  monkeypatch.setattr(Trainer, "step", step_or_stop)
  stopped = dataclasses.replace(settings, checkpoint_seconds=0)
  with pytest.raises(Interruption):
    sweeps.sweep(model, stopped, TinyRun)
  assert not (out / "results.json").exists()
  sweeps.sweep(model, settings, TinyRun)
  # Two runs have 12 steps each, and the interrupted step is tried twice.
  assert len(steps) == 2 * 12 + 1
  assert json.loads(written) == summary
  assert (out / "results.json").read_text() == written


def test_learning_rate_choice_ignores_test_set_and_diverged_runs(
  model, data, tmp_path, monkeypatch
):
  # Validation and test error at each rate; the two rank the rates differently.
  errors = {0.1: (3.0, 1.0), 0.2: (2.0, 2.0), 0.3: (np.nan, 0.5), 0.4: (4.0, 0.1)}

  def pretend(trainer, run, progress=None):
    splits = {
      split: {"ink": error + run.seed, "left": 1 / (error + run.seed)}
      for split, error in zip(
        ("validation", "test"), errors[run.learning_rate], strict=True
      )
    }
    return {"last": splits, "best": splits, "history": [splits]}

  monkeypatch.setattr(runner, "train", pretend)
  settings = make_settings(
    data, tmp_path, learning_rates=tuple(errors), seeds=3, tuning_seeds=2
  )
  rows = sweeps.sweep(model, settings, TinyRun)["rows"]
  assert rows["single-task"]["learning_rates"] == {"ink": 0.2, "left": 0.2}
  for method in METHODS:
    assert rows[method]["learning_rate"] == 0.2
    assert rows[method]["test"]["last"]["ink"] == [2.0, 3.0, 4.0]
    assert np.isnan(rows[method]["validation"]["0.3"])


@pytest.fixture(scope="module")
def reported(done, model, tmp_path_factory):
  """Writes a report and returns its folder and its summary."""
  settings, _ = done
  to = tmp_path_factory.mktemp("report")
  published = tables.Reference("paper, far_away", {"dwa": {"ink": 0.12345}})
  options = Report(data=settings.data, out=settings.out, to=to)
  return to, report(model, options, published)


def test_report_writes_all_files_and_summarises_noise_and_last_epochs(reported, done):
  to, summary = reported
  names = {"table.md", "table_last.tex", "table_best.tex", "results.json"}
  pictures = {"weights", "gradient_norms", "gnr", "delta_m_last", "delta_m_best"}
  pictures |= {"gnr_over_training", "curves"}
  assert {path.name for path in to.iterdir()} == names | {f"{p}.png" for p in pictures}
  for picture in pictures:
    assert (to / f"{picture}.png").read_bytes().startswith(b"\x89PNG")
  assert json.loads((to / "results.json").read_text()) == summary
  noise, last = summary.pop("gradient_noise"), summary.pop("last_epochs")
  assert summary == done[1]
  assert set(noise) == set(METHODS)
  for numbers in noise.values():
    assert {"weight", "median_norm", "gnr_single", "gnr_multi"} == set(numbers)
    assert all(set(of_task) == set(TASKS) for of_task in numbers.values())
  assert noise["equal-weights"]["weight"] == pytest.approx({"ink": 0.5, "left": 0.5})
  for method in METHODS:
    rate = summary["rows"][method]["learning_rate"]
    histories = [results_of(done[0].out)[method, rate, s]["history"] for s in (0, 1)]
    for task in TASKS:
      rows = [row for history in histories for row in history[-10:]]
      weights = [row["weight"][task] for row in rows]
      assert last[method]["weight"][task] == pytest.approx(np.mean(weights))
      logarithms = np.log([row["gnr"][task] for row in rows])
      assert last[method]["gnr"][task] == pytest.approx(np.exp(logarithms.mean()))


def cells(line):
  return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.mark.parametrize("at", [0, 1])
def test_table_shows_means_and_standard_errors_and_marks_the_best_bold(at, reported):
  to, summary = reported
  judged = ("last", "best")[at]
  parts = (to / "table.md").read_text().split("\n\n")
  assert len(parts) == 6  # two tables of metrics, and a comparison of the rows
  assert summary["problem"] in parts[2 * at]
  header, _, *lines = parts[2 * at + 1].strip().splitlines()
  assert cells(header) == [
    "method",
    "ink RMSE ↓",
    "left accuracy ↑",
    "Δm % ↑",
    "mean rank ↓",
    "learning rate",
  ]
  expected = []
  for row in summary["rows"].values():
    values = [row["test"][judged][t] for t in TASKS] + [row["delta_m"][judged]]
    expected.append([*values, [row["mean_rank"][judged]]])
  for name, line, columns in zip(summary["rows"], lines, expected, strict=False):
    found = cells(line)
    assert found[0] == name
    for index, (values, places) in enumerate(
      zip(columns, (4, 1, 1, 1), strict=True), start=1
    ):
      text = f"{round(np.mean(values), places) + 0.0:.{places}f}"  # never -0.0
      if len(values) > 1:
        error = np.sqrt(np.var(values, ddof=1) / len(values))
        text += f" ± {error:.{places}f}"
      assert found[index].strip("*") == text
      # The two best of three rows are bold, and so are rows that tie with them.
      sign = (-1, 1, 1, -1)[index - 1]
      scores = [sign * np.mean(other[index - 1]) for other in expected]
      is_bold = sign * np.mean(values) >= sorted(scores)[-2]
      assert (found[index] == f"**{text}**") == is_bold
  assert cells(lines[-1]) == ["paper, far_away: dwa", "0.1235", "", "", "", ""]
  assert len(lines) == 4


def test_report_in_latex_has_rules_escapes_and_all_columns(reported):
  text = (reported[0] / "table_last.tex").read_text()
  lines = text.splitlines()
  rules = [r"\toprule", r"\midrule", r"\bottomrule"]
  assert [line for line in lines if line in rules] == rules
  assert r"\hline" not in text
  assert r"paper, far\_away: dwa" in text
  assert r"\textbf{" in text
  rows = [line for line in lines if line.rstrip().endswith(r"\\")]
  assert len(rows) == 1 + 3 + 1
  assert all(row.count("&") == 5 for row in rows)


def made_up(metrics, values):
  """Makes a summary from rows by name, each with values by metric and seed."""
  return {
    "problem": "made up",
    "metrics": [metric._asdict() for metric in metrics],
    "rows": {
      name: {
        "test": {"last": row},
        "delta_m": {"last": [1.0] * len(next(iter(row.values())))},
        "mean_rank": {"last": rank},
        "learning_rate": 1e-4,
      }
      for rank, (name, row) in enumerate(values.items(), start=1)
    },
  }


def test_latex_escapes_every_special_character():
  metric = Metric("x", "some_task", "mIoU %", 1, 2)
  summary = made_up([metric], {"a_b": {"x": [1.0, 2.0]}})
  text = tables.latex(summary, "last")
  assert r"some\_task mIoU \%" in text
  assert r"a\_b" in text
  assert r"1.50 $\pm$ 0.50" in text
  assert r"$\Delta_m$ \% $\uparrow$" in text
  assert not re.search(r"(?<!\\)[%_]", text.replace(r"\Delta_m", ""))


@pytest.mark.parametrize(("sign", "worst"), [(-1, "8.00"), (1, "0.00")])
def test_more_than_eight_metrics_of_one_kind_are_shown_as_mean_and_worst(sign, worst):
  metrics = [Metric(f"m{i}", f"t{i}", "RRMSE %", sign, 2) for i in range(9)]
  values = {f"m{i}": [float(i), float(i)] for i in range(9)}
  summary = made_up(metrics, {"dwa": values})
  header, _, line = tables.markdown(summary, "last").splitlines()
  arrow = "↑" if sign > 0 else "↓"
  assert cells(header)[:3] == [
    "method",
    f"mean RRMSE % {arrow}",
    f"worst RRMSE % {arrow}",
  ]
  assert cells(line)[:3] == ["dwa", "4.00 ± 0.00", f"{worst} ± 0.00"]
  # Eight metrics, or metrics of several kinds, have one column each.
  kinds = [metrics[0]._replace(label="other"), *metrics[1:]]
  for shown in (metrics[:8], kinds):
    table = tables.markdown(made_up(shown, {"dwa": values}), "last")
    assert len(cells(table.splitlines()[0])) == len(shown) + 4


def test_hidden_metrics_have_no_column():
  metrics = [ERROR, ACCURACY, UNUSED._replace(shown=False)]
  row = {"error": [1.0], "accuracy": [2.0], "unused": [3.0]}
  header, _, line = tables.markdown(made_up(metrics, {"dwa": row}), "last").splitlines()
  assert len(cells(header)) == 6
  assert cells(line) == ["dwa", "1.00", "2.0", "1.0", "1.0", "0.0001"]


def test_two_best_values_and_their_ties_are_bold():
  values = {name: {"error": [x]} for name, x in zip("abcd", (3, 1, 2, 2), strict=True)}
  table = tables.markdown(made_up([ERROR], values), "last").splitlines()
  assert [cells(line)[1] for line in table[2:]] == [
    "3.00",
    "**1.00**",
    "**2.00**",
    "**2.00**",
  ]
  values["a"] = {"error": [float("nan")]}
  table = tables.markdown(made_up([ERROR], values), "last").splitlines()
  assert cells(table[2])[1] == "diverged (1 of 1)"


def test_report_uses_the_settings_of_its_sweep(done):
  settings, _ = done
  options = Report(data=settings.data, out=settings.out)
  found = settings_of(fashion.FashionSettings, options.out, options.data)
  for field in dataclasses.fields(found):
    if field.name not in ("checkpoint_seconds", "tensorboard"):
      assert getattr(found, field.name) == getattr(settings, field.name)


def test_names_of_sets_stand_for_their_rows_and_each_row_comes_once(data, tmp_path):
  settings = make_settings(data, tmp_path, methods=("mgda", "few", "all", "slaw"))
  others = [name for name in methods.METHODS if name not in ("mgda", *SETS["few"])]
  assert settings.methods == ("mgda", *SETS["few"], *others)


def test_report_without_sweep_or_on_other_data_is_rejected(done, model, tmp_path):
  settings, _ = done
  with pytest.raises(ValueError, match="run `sweep --out"):
    report(model, Report(data=settings.data, out=tmp_path))
  with pytest.raises(ValueError, match="run `sweep --out"):
    settings_of(fashion.FashionSettings, tmp_path, settings.data)
  with pytest.raises(ValueError, match="files: give the sweep's --data"):
    settings_of(fashion.FashionSettings, settings.out, None)
  other = Model(dataclasses.replace(model.problem, title="another"))
  with pytest.raises(ValueError, match="not of 'another': give the data of the sweep"):
    report(other, Report(data=settings.data, out=settings.out))


def test_summary_says_what_delta_m_gained_in_the_last_fifth_of_the_epochs(done):
  settings, summary = done
  rows, results = summary["rows"], results_of(settings.out)

  def values(name, at):
    row, rates = rows[name], rows[name].get("learning_rates", {})
    found = {}
    for task in TASKS:
      run = f"single-task-{task}" if rates else name
      rate = rates.get(task, row.get("learning_rate"))
      found[task] = np.array(
        [results[run, rate, s]["history"][at]["validation"][task] for s in (0, 1)]
      )
    return found

  def mean_delta_m(name, at):
    base = {task: x.mean() for task, x in values("single-task", at).items()}
    of_task = values(name, at).items()
    return 100 * np.mean([SIGNS[t] * (x / base[t] - 1) for t, x in of_task])

  for name in rows:
    expected = mean_delta_m(name, 2) - mean_delta_m(name, 1)  # of three epochs
    assert rows[name]["change_at_end"] == pytest.approx(expected, abs=1e-9)
  assert rows["single-task"]["change_at_end"] == pytest.approx(0, abs=1e-9)
