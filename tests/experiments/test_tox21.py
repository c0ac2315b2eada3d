"""Tests the problem of molecules: data, losses, metric and the logistic regression."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score

from benchmarks.experiments import __main__, tables
from benchmarks.experiments.problems.tox21 import data, logistic
from benchmarks.experiments.problems.tox21.problem import (
  MoleculeSettings,
  cross_entropy,
  make_problem,
  probability_of_truth,
  reference,
  roc_auc,
)
from tests.helpers.molecules import NAMES, SIZES, random_molecules, write_molecules

pytestmark = pytest.mark.usefixtures("quick_experiments")


def problem_of(folder, **settings):
  return make_problem(MoleculeSettings(data=write_molecules(folder), **settings))


def whole(problem, split):
  (batch,) = problem.evaluation_batches(split)
  return batch


def test_molecules_are_divided_as_the_file_says(tmp_path):
  problem = problem_of(tmp_path)
  arrays = random_molecules()
  bits = np.unpackbits(arrays["fingerprint"], axis=1)
  assert problem.tasks == tuple(sorted(NAMES))
  assert problem.num_train == SIZES["train"]
  for number, split in enumerate(SIZES):
    batch = whole(problem, split)
    rows = arrays["split"] == number
    np.testing.assert_array_equal(batch["bits"], bits[rows])
    np.testing.assert_array_equal(batch["label"], arrays["label"][rows])
    assert batch["bits"].dtype == np.float32
  batch = problem.train_batches(8, 0)[0]
  assert batch["bits"].shape == (8, 1024)
  assert batch["label"].shape == (8, 3)


def test_without_validation_its_molecules_are_trained_on(tmp_path):
  problem = problem_of(tmp_path, validation=0.0)
  assert problem.num_train == SIZES["train"] + SIZES["validation"]
  assert not list(problem.evaluation_batches("validation"))
  arrays = random_molecules()
  np.testing.assert_array_equal(
    whole(problem, "train")["label"], arrays["label"][arrays["split"] < 2]
  )
  assert len(whole(problem, "test")["label"]) == SIZES["test"]


def test_losses_are_means_over_measured_labels_of_the_right_column(tmp_path):
  problem = problem_of(tmp_path)
  batch = whole(problem, "train")
  random = np.random.default_rng(0)
  logits = {
    task: random.normal(size=(SIZES["train"], 1)).astype(np.float32)
    for task in problem.tasks
  }
  found = problem.losses(logits, batch)
  for task, logit in logits.items():
    label = batch["label"][:, NAMES.index(task)]
    known = label >= 0
    probability = 1 / (1 + np.exp(-logit[known, 0].astype(float)))
    assert found[task] == pytest.approx(log_loss(label[known], probability), rel=1e-5)
  # Labels that were not measured have no influence.
  loss = jax.grad(lambda x: cross_entropy(x, batch["label"][:, 0]))
  gradient = loss(jnp.asarray(logits["b"][:, 0]))
  np.testing.assert_array_equal(gradient != 0, batch["label"][:, 0] >= 0)


def test_batch_says_which_tasks_it_has_labels_of(tmp_path):
  problem = problem_of(tmp_path)
  batch = whole(problem, "train")
  assert all(problem.labelled(batch).values())
  without = batch | {"label": batch["label"].copy()}
  without["label"][:, NAMES.index("a")] = -1
  found = problem.labelled(without)
  assert {task: bool(x) for task, x in found.items()} == {"a": False, "b": 1, "c": 1}
  outputs = {task: np.ones((SIZES["train"], 1), np.float32) for task in NAMES}
  assert problem.losses(outputs, without)["a"] == 0
  assert problem.kpis(outputs, without)["a"] == 0


@pytest.mark.parametrize(
  ("logit", "label", "expected"),
  [
    ([0, 0, 0, 0], [1, 0, 0, -1], 0.5),
    ([9, -9, -9, -9], [1, 0, 0, -1], 1),
    ([-9, 9, 9, 9], [1, 0, 0, -1], 0),
    ([9, 9, 9, 9], [1, 0, 0, -1], 0.5),  # whatever the share of positives
    ([-9, -9, 9, 9], [0, 0, -1, -1], 1),  # no positives
  ],
)
def test_indicator_weighs_both_labels_alike(logit, label, expected):
  found = probability_of_truth(jnp.array(logit, jnp.float32), jnp.array(label))
  assert found == pytest.approx(expected, abs=1e-3)


def test_area_under_the_curve_is_that_of_scikit_learn():
  random = np.random.default_rng(0)
  for seed in range(20):
    score = np.round(random.normal(size=60), seed % 3)  # with ties
    label = random.integers(-1, 2, 60)
    known = label >= 0
    expected = 100 * roc_auc_score(label[known], score[known])
    assert roc_auc(score, label) == pytest.approx(expected, abs=1e-9)
    score[~known] = np.nan
    assert roc_auc(score, label) == pytest.approx(expected, abs=1e-9)
  score[known] = np.nan
  assert np.isnan(roc_auc(score, label))


def test_metrics_find_the_columns_of_their_tasks(tmp_path):
  problem = problem_of(tmp_path)
  batch = whole(problem, "test")
  outputs = {
    task: (1.0 - batch["label"][:, [NAMES.index(task)]]).astype(np.float32)
    for task in problem.tasks
  }
  outputs["a"] = 1 - outputs["a"]
  sums = {name: np.asarray(x) for name, x in problem.sums(outputs, batch).items()}
  assert problem.summarise(sums) == {"a": 100, "b": 0, "c": 0}


LABEL = random_molecules()["label"]


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"split": None}, "lacks the array 'split'; it needs fingerprint, label"),
    ({"label": LABEL[:, 0]}, "label must have 2 axes"),
    ({"fingerprint": np.zeros((46, 1024), np.uint8)}, r"1024 packed bits, got .*1024"),
    ({"fingerprint": np.zeros((46, 128))}, "must be uint8.* got float64"),
    ({"label": LABEL[:, :2]}, r"label for each molecule.*got labels \(46, 2\)"),
    ({"split": np.zeros(9, int)}, "9 splits for 46 molecules"),
    ({"task": np.array(["a", "a", "b"])}, "task must hold different names"),
    ({"task": np.arange(3)}, "task must hold different names"),
    ({"label": LABEL + 1}, "label must be integers among -1, 0, 1, got int8"),
    ({"label": LABEL.astype(float)}, "label must be integers.* got float64"),
    ({"split": np.zeros(46, int)}, "which b lacks in the validation split"),
    ({"label": np.minimum(LABEL, 0)}, "which b lacks in the train split"),
  ],
)
def test_files_with_wrong_contents_are_rejected(changes, message, tmp_path):
  path = write_molecules(tmp_path, **changes)
  with pytest.raises(ValueError, match=message) as raised:
    data.load(path)
  assert str(path) in str(raised.value)


def test_files_that_are_not_archives_are_rejected(tmp_path):
  with pytest.raises(ValueError, match=r"must be Tox21 as one \.npz file"):
    data.load(tmp_path)
  path = tmp_path / "text.npz"
  path.write_text("hello")
  with pytest.raises(ValueError, match=r"cannot be read as an \.npz file"):
    data.load(path)


@pytest.mark.parametrize(
  "tasks", [(), pytest.param(("c",), marks=pytest.mark.thorough)]
)
def test_network_is_trained_from_the_command_line(tasks, tmp_path, capsys):
  file, out = write_molecules(tmp_path), tmp_path / "out"
  arguments = ["tox21", "train", "--data", str(file), "--out", str(out)]
  arguments += ["--batch-size", "8", "--epochs", "2", "--hidden", "4", "--method"]
  arguments += ["equal-weights", *(["--tasks", *tasks] if tasks else [])]
  __main__.main(arguments)
  assert "c ROC-AUC %" in capsys.readouterr().out
  result = json.loads((out / "result.json").read_text())
  assert set(result["history"][-1]["loss"]) == set(tasks or NAMES)
  for split in ("validation", "test"):
    assert all(0 <= x <= 100 for x in result["last"][split].values())


def test_logistic_regressions_are_a_row_of_the_table(tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(logistic, "STRENGTHS", (0.01, 1.0))
  settings = MoleculeSettings(data=write_molecules(tmp_path), out=tmp_path)
  assert reference(settings) is None
  logistic.main(["--data", str(settings.data), "--out", str(tmp_path)])
  written = json.loads((tmp_path / "logistic.json").read_text())
  assert list(written["tasks"]) == sorted(NAMES)
  assert f"{written['mean']:.1f} %" in capsys.readouterr().out
  arrays = random_molecules()
  bits = np.unpackbits(arrays["fingerprint"], axis=1).astype(float)
  label, split = arrays["label"][:, NAMES.index("a")], arrays["split"]
  (train, validation, test) = ((split == i) & (label >= 0) for i in range(3))
  found = {}
  for strength in (0.01, 1.0):
    model = LogisticRegression(C=strength, solver="liblinear", tol=1e-6)
    score = model.fit(bits[train], label[train]).decision_function(bits)
    found[strength] = [
      100 * roc_auc_score(label[rows], score[rows]) for rows in (validation, test)
    ]
  best = max(found, key=lambda strength: found[strength][0])
  expected = {"C": best, "validation": found[best][0], "test": found[best][1]}
  assert written["tasks"]["a"] == pytest.approx(expected, abs=1e-6)

  row = reference(settings)
  assert row.rows["logistic, single-task"]["a"] == written["tasks"]["a"]["test"]
  values = [f"{of_task['test']:.1f}" for of_task in written["tasks"].values()]
  expected = ["scikit-learn: logistic, single-task", *values, "", "", ""]
  assert last_cells(sorted(NAMES), row) == expected


def last_cells(tasks, reference):
  """Lists the cells of the last line of a table of one method and a reference."""
  metrics = [
    {"name": task, "task": task, "label": "ROC-AUC %", "sign": 1, "places": 1}
    | {"in_delta_m": True, "shown": True, "by_ratio": False}
    for task in tasks
  ]
  row = {
    "test": {"last": {task: [50.0] for task in tasks}},
    "delta_m": {"last": [0.0]},
    "mean_rank": {"last": 1.0},
    "learning_rate": 0.1,
  }
  summary = {"metrics": metrics, "rows": {"equal-weights": row}}
  line = tables.markdown(summary, "last", reference).splitlines()[-1]
  return [cell.strip() for cell in line.strip("|").split("|")]


def test_published_row_of_many_tasks_shows_their_mean_and_worst():
  tasks = [f"task{i}" for i in range(9)]
  values = {task: 10.0 * at for at, task in enumerate(tasks)}
  row = tables.Reference("other", {"row": values})
  assert last_cells(tasks, row) == ["other: row", "40.0", "0.0", "", "", ""]
