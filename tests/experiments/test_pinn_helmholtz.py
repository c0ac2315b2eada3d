"""Tests the Helmholtz equation, a problem without single-task models."""

import json
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from matplotlib.figure import Figure

from benchmarks.experiments import cli, comparison, figures
from benchmarks.experiments.model import Model
from benchmarks.experiments.problems.pinn.helmholtz import (
  HelmholtzSettings,
  evaluate,
  make_problem,
)
from benchmarks.experiments.problems.pinn.network import Network
from benchmarks.experiments.report import Report, report
from benchmarks.experiments.sweep import sweep

pytestmark = pytest.mark.usefixtures("quick_experiments")


def exact(points, waves=(1, 4)):
  return np.prod(np.sin(np.pi * np.array(waves) * np.asarray(points, float)), axis=-1)


@pytest.fixture(scope="module")
def problem():
  return make_problem(HelmholtzSettings())


@pytest.fixture(scope="module")
def batch(problem):
  return problem.train_batches(64, 0)[3]


def test_points_depend_on_seed_and_step_and_lie_inside_and_on_the_boundary(problem):
  batches = problem.train_batches(500, 3)
  points = batches[7]["points"]
  assert points.shape == (500, 2, 2)
  assert points.dtype == np.float32
  assert np.abs(points).max() == 1
  assert np.abs(points[:, 0]).max() < 1
  at_edge = np.abs(points[:, 1]) == 1
  assert (at_edge.sum(1) == 1).all()
  for side in (-1, 1):  # every edge has a quarter of the points
    for axis in (0, 1):
      assert 90 < (points[:, 1, axis] == side).sum() < 160
  np.testing.assert_allclose(points[:, 0].mean(0), [0, 0], atol=0.1)
  chex.assert_trees_all_equal(batches[7], problem.train_batches(500, 3)[7])
  for other in (batches[8], problem.train_batches(500, 4)[7]):
    assert (other["points"][:, 0] != points[:, 0]).all()


def test_network_computes_the_laplacian_of_its_solution(batch):
  network = Network(8, 3, evaluate, nnx.Rngs(0))
  outputs = network(batch["points"])

  def laplacian(point):
    return jnp.trace(jax.hessian(lambda x: network.solution(x[None])[0])(point))

  expected = jax.vmap(laplacian)(batch["points"][:, 0])
  np.testing.assert_allclose(outputs["laplacian"], expected, rtol=1e-3, atol=1e-5)
  for place, name in enumerate(("inside", "boundary")):
    found = network.solution(batch["points"][:, place])
    np.testing.assert_allclose(outputs[name], found, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("waves", [(1, 4), (2, 3)])
def test_solution_has_no_loss_and_no_error_and_others_have(waves, batch):
  problem = make_problem(HelmholtzSettings(waves=waves))
  truth = exact(batch["points"][:, 0], waves)
  factor = -(np.pi**2) * np.sum(np.square(waves))
  right = {"inside": truth, "laplacian": factor * truth, "boundary": 0 * truth}
  right = {name: np.float32(values) for name, values in right.items()}
  source = (factor + 1) * truth
  found = problem.losses(right, batch)
  np.testing.assert_allclose(found["residual"], 0, atol=1e-5 * np.mean(source**2))
  np.testing.assert_allclose(found["boundary"], 0, atol=1e-9)
  nothing = {name: np.zeros_like(values) for name, values in right.items()}
  found = problem.losses(nothing, batch)
  np.testing.assert_allclose(found["residual"], np.mean(source**2), rtol=1e-4)
  for outputs, expected in ((right, [1, 1]), (nothing, [1, 0])):
    kpis = problem.kpis(outputs, batch)
    np.testing.assert_allclose(
      [kpis["boundary"], kpis["residual"]], expected, atol=1e-4
    )
  wrong = right | {"boundary": np.full_like(right["boundary"], 2)}
  np.testing.assert_allclose(problem.losses(wrong, batch)["boundary"], 4, rtol=1e-5)
  for scale in (0.0, 0.9, 1.0):
    outputs = {"inside": np.float32(scale * truth)}
    sums = problem.sums(outputs, batch)
    error = problem.summarise({k: np.asarray(v) for k, v in sums.items()})["error"]
    assert error == pytest.approx(1 - scale, abs=1e-5)


def test_grids_cover_the_square_and_validation_points_lie_between_the_others(problem):
  (test,) = problem.evaluation_batches("test")
  (validation,) = problem.evaluation_batches("validation")
  assert test["points"].shape == (101**2, 2, 2)
  assert set(test["points"][:, 0, 0].tolist()) == set(
    np.linspace(-1, 1, 101, dtype=np.float32).tolist()
  )
  apart = np.abs(validation["points"][:, :1, 0] - test["points"][None, ::101, 0, 0])
  np.testing.assert_allclose(apart.min(1), 0.01, atol=1e-6)
  without = make_problem(HelmholtzSettings(validation=0.0))
  assert not list(without.evaluation_batches("validation"))
  assert not list(problem.evaluation_batches("train"))
  for batch in (test, validation):
    np.testing.assert_array_equal(batch["points"][:, 1], batch["points"][:, 0])


@pytest.mark.thorough
def test_sweep_compares_with_equal_weights_at_its_best_rate(tmp_path):
  commands = cli.commands(HelmholtzSettings)
  settings = commands["sweep"](
    out=tmp_path,
    methods=("slaw",),
    learning_rates=(1e-3, 1e-2),
    most_extensions=1,
    seeds=2,
    batch_size=16,
    points_per_epoch=64,
    steps_per_call=4,
    epochs=2,
    hidden=4,
    layers=2,
    jobs=1,
  )
  model = Model(make_problem(settings))
  summary = sweep(model, settings, commands["train"])
  assert summary["baseline"] == "equal-weights"
  assert list(summary["rows"]) == ["equal-weights", "slaw"]
  equal, slaw = (row["test"]["last"]["error"] for row in summary["rows"].values())
  base = np.exp(np.mean(np.log(equal)))
  for row, errors in zip(summary["rows"].values(), (equal, slaw), strict=True):
    expected = -100 * np.log(np.array(errors) / base)
    np.testing.assert_allclose(row["delta_m"]["last"], expected, atol=1e-9)
    assert len(row["validation"]) == 3
  report(model, Report(out=tmp_path))
  assert (tmp_path / "curves.png").stat().st_size > 10_000
  assert (tmp_path / "delta_m_last.png").stat().st_size > 10_000
  text = comparison.main(comparison.Comparison(folder=tmp_path, against="slaw"))
  assert "that of Δm against equal-weights" in text
  results = json.loads((tmp_path / "results.json").read_text())
  assert results["metrics"][0]["by_ratio"]
  (line,) = (x for x in text.splitlines() if x.startswith("| equal-weights"))
  assert line.split("|")[3].strip() == ""  # no interval against itself


def test_an_error_is_drawn_beside_its_delta_m(monkeypatch):
  drawn = []
  monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
  # Equal weights have 0.2 on average; one is far behind.
  errors = {"equal-weights": [0.1, 0.4], "maxgnr-0": [0.02, 0.05], "imtl-g": [9.0, 9.0]}
  rows = {
    name: {
      "test": {"last": {"error": values}},
      "delta_m": {"last": [-100 * math.log(value / 0.2) for value in values]},
    }
    for name, values in errors.items()
  }
  metric = {"name": "error", "label": "L2", "in_delta_m": True, "by_ratio": True}
  summary = {"metrics": [metric], "rows": rows, "baseline": "equal-weights"}
  summary |= {"problem": "made up", "settings": {"schedule": "cosine"}}
  figures.delta_m(summary, "last", "picture.png")
  (top,) = drawn[0].axes[0].child_axes
  assert drawn[0].axes[0].get_xscale() == "linear"
  assert top.get_xlabel() == "L2"
  labels = [label.get_text() for label in top.get_xticklabels()]
  at = dict(zip(labels, top.get_xticks(), strict=True))
  assert at["0.2"] == pytest.approx(0, abs=1e-9)
  assert at["0.02"] == pytest.approx(max(rows["maxgnr-0"]["delta_m"]["last"]))


def test_study_of_groups_needs_single_task_models(tmp_path):
  with pytest.raises(SystemExit, match="no task can be trained alone"):
    cli.main(
      "benchmarks.experiments helmholtz",
      HelmholtzSettings,
      make_problem,
      argv=["grouping", "--out", str(tmp_path)],
    )
  with pytest.raises(ValueError, match="layers must be at least 1, got 0"):
    HelmholtzSettings(layers=0)
