"""The demo: its data, its summary, and a short run of the command a user types."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits

from benchmarks.experiments.mlp import trunk_only
from benchmarks.experiments.problems.digits import __main__, data, experiment
from benchmarks.experiments.problems.digits.methods import METHODS, STEPS_PER_EPOCH
from benchmarks.experiments.problems.digits.model import TASKS, kpis
from benchmarks.methods import Setting
from maxgnr_jax import aggregators
from tests.helpers import commands


def test_splits_hold_every_digit_once():
  splits = [
    [image.tobytes() for image in np.asarray(part.image)] for part in data.split()
  ]
  whole = [image.tobytes() for image in (load_digits().images / 16).astype(np.float32)]
  assert sorted(itertools.chain(*splits)) == sorted(whole)
  assert len(set(whole)) == len(whole)  # so that no digit is in two splits


def test_canvas_holds_both_digits_and_their_targets():
  train, _, _ = data.load()
  batch = data.sample(jax.random.key(0), train, 50)
  canvas = np.asarray(batch.canvas).reshape(50, 8, data.WIDTH)
  images, labels = np.asarray(train.image), np.asarray(train.label)
  for n in range(50):
    fits = []
    for part, label in ((np.s_[:, :8], batch.left), (np.s_[:, -8:], batch.right)):
      candidates = images[labels == int(label[n])]
      inside = (candidates <= canvas[n][part] + 1e-6).all((1, 2))
      assert inside.any()
      fits.append(candidates[inside].mean((1, 2)))
    pairs = (fits[0][:, None] + fits[1][None, :]) / 2
    assert np.isclose(pairs, float(batch.ink[n]), atol=1e-6).any()


def test_delta_m_counts_lower_errors_and_higher_accuracies_as_better():
  base = np.array([0.2, 0.1, 50.0, 80.0])
  better = np.array([0.1, 0.1, 75.0, 80.0])  # +50 %, 0, +50 %, 0
  assert experiment.delta_m(better, base) == pytest.approx(25.0)
  assert experiment.delta_m(base, base) == 0.0


def test_command_writes_table_figures_and_results(tmp_path):
  options = ["--seeds", "2", "--steps", "200", "--out", str(tmp_path)]
  methods = ["equal-weights", "maxgnr-0.9", "flat-imtl-g"]
  done = commands.run(
    "-m", "benchmarks.experiments.problems.digits", *options, "--methods", *methods
  )
  assert done.returncode == 0, done.stderr
  assert (tmp_path / "table.md").read_text() in done.stdout
  for figure in ("delta_m", "weights", "gnr", "curves"):
    assert (tmp_path / f"{figure}.png").stat().st_size > 10_000
  results = json.loads((tmp_path / "results.json").read_text())
  assert set(results["single_task"]) == set(TASKS)
  assert list(results["methods"]) == methods
  for entry in results["methods"].values():
    assert len(entry["delta_m"]) == 2
    assert np.isfinite(entry["delta_m"]).all()
  weights = {name: m["mean_weights"] for name, m in results["methods"].items()}
  assert list(weights["equal-weights"].values()) == pytest.approx([0.25] * 4)
  assert sum(weights["maxgnr-0.9"].values()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
  "options", [["--seeds", "0"], ["--steps", "99"], ["--methods", "none-such"]]
)
def test_command_refuses_senseless_options(options, monkeypatch, capsys):
  monkeypatch.setattr("sys.argv", ["benchmarks.experiments.problems.digits", *options])
  with pytest.raises(SystemExit, match=r"^2$"):
    __main__.main()
  assert options[0] in capsys.readouterr().err


def test_every_method_has_a_transformation_for_the_tasks():
  setting = Setting(len(TASKS), trunk_only, STEPS_PER_EPOCH)
  for method in METHODS.values():
    assert hasattr(method.make(setting), "update")


def test_the_table_holds_every_baseline():
  factories = {
    name
    for name in dir(aggregators)
    if callable(getattr(aggregators, name))
    and not name.endswith(("_weights", "State", "_method"))
  }
  shown = {"flat_regions" if name.startswith("flat-") else name for name in METHODS}
  shown = {name.replace("-", "_").removesuffix("_2") for name in shown}
  assert factories <= shown


def test_indicators_are_shares_of_what_there_is_to_explain():
  _, batch, _ = data.load()
  perfect = {
    "canvas": batch.canvas,
    "ink": batch.ink[:, None],
    "left": jax.nn.one_hot(batch.left, 10),
    "right": jax.nn.one_hot(batch.right, 10),
  }
  constant = {
    "canvas": jnp.broadcast_to(batch.canvas.mean(0)[None], batch.canvas.shape),
    "ink": jnp.full((len(batch.ink), 1), batch.ink.mean()),
    "left": jax.nn.one_hot(jnp.zeros(len(batch.left), int), 10),
    "right": jax.nn.one_hot(jnp.zeros(len(batch.right), int), 10),
  }
  for value in kpis(perfect, batch).values():
    assert float(value) == pytest.approx(1)
  for name, value in kpis(constant, batch).items():
    share = np.mean(np.asarray(getattr(batch, name)) == 0)
    expected = share if name in ("left", "right") else 0
    assert float(value) == pytest.approx(expected, abs=1e-5)
