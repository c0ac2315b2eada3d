"""Tests the study of which tasks train well together."""

import itertools
import json
import types

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats as scipy_stats

from benchmarks.experiments import cli, grouping_report, runner
from benchmarks.experiments import grouping as study
from benchmarks.experiments.metric import Metric
from benchmarks.experiments.model import Model
from benchmarks.experiments.problems.digits.problem import DigitsSettings
from benchmarks.experiments.problems.fashion import problem as fashion
from maxgnr_jax import GradientStats, aggregator_state, retained_gnr
from tests.helpers.experiments import TINY, of_two_tasks, write_images

pytestmark = pytest.mark.usefixtures("quick_experiments")
OF_DIGITS = cli.commands(DigitsSettings)
TASKS = tuple("abcdefg")
BASE = 20.0


def made_up_stats(number):
  """Makes statistics in which tasks of odd numbers are noisier than the others."""
  noise = np.where(np.arange(number) % 2, 9.0, 1.0) + 0.1 * np.arange(number)
  cosine = 0.2 + 0.8 * np.eye(number)
  return GradientStats(*map(jnp.float32, (np.ones(number), noise, cosine)))


@pytest.fixture
def pretended(monkeypatch, tmp_path):
  """Makes a study in which a task's metric is linear in the logarithm of its share."""

  def run(number, slope=0.1, **settings):
    tasks, stats = TASKS[:number], made_up_stats(number)
    metrics = tuple(Metric(t, t, t, (-1) ** at, 2) for at, t in enumerate(tasks))
    problem = types.SimpleNamespace(
      title="made up",
      baseline="single-task",
      tasks=tasks,
      metrics=metrics,
      metrics_of=lambda task: tuple(m for m in metrics if m.task == task),
    )

    def pretend(trainer, run, progress=None):
      trained = run.tasks or tasks
      members = [tasks.index(task) for task in trained]
      shares = dict(zip(trained, retained_gnr(stats, members), strict=True))
      values = {
        m.name: BASE
        * (1 + m.sign * slope * np.log(float(shares[m.task])))
        * (1 + abs(np.log(run.learning_rate / 0.01)) * -m.sign)
        if m.task in shares
        else np.nan
        for m in metrics
      }
      row = {"stats": {n: np.array(x).tolist() for n, x in stats._asdict().items()}}
      splits = {"validation": values, "test": values}
      return {"last": splits, "best": splits, "history": [row] * 3}

    trainer = types.SimpleNamespace(steps_per_epoch=1)
    with monkeypatch.context() as patch:
      patch.setattr(grouping_report, "_DRAWS", 100)
      patch.setattr(runner, "train", pretend)
      patch.setattr(runner, "make_trainer", lambda model, run: trainer)
      config = OF_DIGITS["grouping"](
        out=tmp_path, seeds=2, tuning_seeds=1, jobs=1, **settings
      )
      model = types.SimpleNamespace(problem=problem)
      text = study.grouping(model, config, OF_DIGITS["train"])
    assert (tmp_path / "table.md").read_text() == text
    assert (tmp_path / "retained.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "retained.png").stat().st_size < 300_000
    return text, json.loads((tmp_path / "results.json").read_text())

  return run


def test_all_groups_of_few_tasks_are_trained_and_shares_predict_their_change(pretended):
  text, found = pretended(4, trained_by="slaw")
  groups = {tuple(group["tasks"]): group for group in found["groups"]}
  sizes = (2, 3, 4)
  assert set(groups) == {
    group for size in sizes for group in itertools.combinations("abcd", size)
  }
  stats = made_up_stats(4)
  for tasks, group in groups.items():
    shares = retained_gnr(stats, [TASKS.index(task) for task in tasks])
    assert [*group["retained"]] == list(tasks)
    np.testing.assert_allclose([*group["retained"].values()], shares, rtol=1e-4)
    for task, share in group["retained"].items():
      # Worse than alone by 10 % for each factor e of its GNR.
      assert group["change"][task] == pytest.approx([10 * np.log(share)] * 2, rel=1e-3)
    assert (group["learning_rate"], group["at_edge"]) == (0.01, False)
  row = found["correlations"][grouping_report._ALL]
  assert (row["points"], row["groups"]) == (28, 11)
  assert row["pearson"] == pytest.approx(1, abs=1e-4)
  assert row["spearman"] == pytest.approx(1, abs=1e-2)
  of_size = found["correlations"][grouping_report._OF_SIZE]
  assert of_size["points"] == 11
  assert of_size["pearson"] == pytest.approx(1, abs=1e-4)
  assert found["alone"]["a"]["learning_rate"] == 0.01
  assert "| share that a task retains " in text
  assert "+1.00 (+1.00 to +1.00)" in text


def test_proposed_division_is_compared_with_others_of_the_same_sizes(pretended):
  text, found = pretended(4)
  proposed, *others = found["divisions"]
  assert proposed["groups"] == [["a", "c"], ["b", "d"]]  # quiet and noisy tasks
  assert [division["groups"] for division in others] == [
    [["a", "b"], ["c", "d"]],
    [["a", "d"], ["b", "c"]],
  ]
  changes = {tuple(group["tasks"]): group["change"] for group in found["groups"]}
  for division in found["divisions"]:
    of_tasks = [x for g in division["groups"] for x in changes[tuple(g)].values()]
    assert division["change"] == pytest.approx(np.mean(of_tasks, axis=0).tolist())
  assert "proposed: a, c / b, d" in text
  assert "mean of 2 others" in text


def test_task_in_no_company_has_no_change(pretended):
  _, found = pretended(3, num_groups=3)
  assert [division["change"] for division in found["divisions"]] == [[0.0, 0.0]]
  _, found = pretended(3, num_groups=2)
  changes = {tuple(group["tasks"]): group["change"] for group in found["groups"]}
  pair = next(g for g in found["divisions"][0]["groups"] if len(g) == 2)
  total = np.sum([*changes[tuple(pair)].values()], axis=0)
  assert found["divisions"][0]["change"] == pytest.approx((total / 3).tolist())


def test_pairs_and_divisions_of_many_tasks_are_random(pretended):
  _, found = pretended(7, pairs=6, num_groups=3, random_divisions=4)
  sizes = [sorted(map(len, division["groups"])) for division in found["divisions"]]
  assert sizes == [sizes[0]] * 5
  for division in found["divisions"]:
    assert sorted(itertools.chain(*division["groups"])) == list(TASKS)
  trained = {tuple(group["tasks"]) for group in found["groups"]}
  needed = {tuple(g) for d in found["divisions"] for g in d["groups"] if len(g) > 1}
  assert needed <= trained
  assert len(trained - needed) <= 6 <= sum(len(group) == 2 for group in trained)
  _, again = pretended(7, pairs=6, num_groups=3, random_divisions=4)
  assert again == found


def test_correlations_agree_with_scipy_and_intervals_draw_groups_together():
  random = np.random.default_rng(0)
  x, noise = random.normal(size=(2, 60))
  y = x + noise
  found = grouping_report.correlate(x, y, np.arange(60))
  assert found["pearson"] == pytest.approx(scipy_stats.pearsonr(x, y).statistic)
  assert found["spearman"] == pytest.approx(scipy_stats.spearmanr(x, y).statistic)
  expected = scipy_stats.pearsonr(x, y).confidence_interval(0.95)
  assert found["pearson_interval"] == pytest.approx([*expected], abs=0.06)
  # Repeated points tell nothing new.
  repeated = [np.repeat(values, 3) for values in (x, y, np.arange(60))]
  again = grouping_report.correlate(*repeated)
  for name in ("pearson", "spearman"):
    assert again[f"{name}_interval"] == pytest.approx(found[f"{name}_interval"])
  constant = grouping_report.correlate(np.ones(4), y[:4], np.arange(4))
  assert np.isnan([constant["pearson"], *constant["spearman_interval"]]).all()


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    (
      {"measured_by": "slaw"},
      "measured_by must be equal-weights or a method of MaxGNR",
    ),
    ({"measured_by": "maxgnr-0.9-by-layer"}, "one group of parameters"),
    ({"trained_by": "none-such"}, "there is no method 'none-such'"),
    ({"num_groups": 0}, "num_groups must be at least 1, got 0"),
  ],
)
def test_invalid_settings_are_rejected(settings, message):
  with pytest.raises(ValueError, match=message):
    OF_DIGITS["grouping"](**settings)


@pytest.mark.thorough
def test_study_of_two_tasks_trains_them_and_reads_the_statistics(tmp_path, monkeypatch):
  commands = cli.commands(fashion.FashionSettings)
  options = TINY | {"data": write_images(tmp_path), "validation": 0.25}
  settings = commands["grouping"](
    **options | {"out": tmp_path / "out", "epochs": 2, "seeds": 1, "tuning_seeds": 1},
    learning_rates=(0.01,),
    num_groups=1,
    trained_by="slaw",
  )
  made, make = [], runner.make_trainer

  def recorded(model, run):
    made.append((run, make(model, run)))
    return made[-1][1]

  monkeypatch.setattr(runner, "make_trainer", recorded)
  model = Model(of_two_tasks(fashion.make_problem(settings)))
  text = study.grouping(model, settings, commands["train"])
  found = json.loads((settings.out / "results.json").read_text())
  assert [group["tasks"] for group in found["groups"]] == [["ink", "left"]]
  assert [division["groups"] for division in found["divisions"]] == [[["ink", "left"]]]
  assert "ink, left" in text

  def result(name):
    (path,) = settings.out.glob(f"runs/{name}/*/*/result.json")
    return json.loads(path.read_text())

  pair, ink, left = (
    result(name)["last"]["test"]
    for name in ("slaw-on-ink-left", "single-task-ink", "single-task-left")
  )
  change = found["groups"][0]["change"]
  assert change["ink"] == pytest.approx([-100 * (pair["ink"] / ink["ink"] - 1)])
  assert change["left"] == pytest.approx([100 * (pair["left"] / left["left"] - 1)])
  # The statistics are those of the state after each epoch.
  history = result("maxgnr-0.9-noise-0.99")["history"]
  trainer = next(t for run, t in made if run.method == "maxgnr-0.9-noise-0.99")
  state, per_epoch = trainer.init(1, 0.01), trainer.steps_per_epoch
  shares = []
  for epoch, row in enumerate(history):
    for step in range(per_epoch):
      batch = model.problem.train_batches(8, 1)[epoch * per_epoch + step]
      state, _ = trainer.step(state, batch)
    stats = aggregator_state(state.combination).stats
    for name, value in stats._asdict().items():
      np.testing.assert_allclose(row["stats"][name], value, rtol=1e-5)
    shares.append(retained_gnr(stats))
  expected = np.exp(np.log(np.array(shares)).mean(0))
  retained = [*found["groups"][0]["retained"].values()]
  np.testing.assert_allclose(retained, expected, rtol=1e-4)
  assert "stats" not in result("slaw-on-ink-left")["history"][0]
