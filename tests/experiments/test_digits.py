"""Tests the digits problem: its data, its table of methods and its command line."""

import itertools
import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from sklearn.datasets import load_digits

from benchmarks.combination import weights_and_gnr
from benchmarks.experiments import __main__, mlp
from benchmarks.experiments.metric import delta_m
from benchmarks.experiments.problems import PROBLEMS, pairs
from benchmarks.experiments.problems.digits import data
from benchmarks.experiments.problems.digits.problem import DigitsSettings, make_problem
from benchmarks.methods import AGGREGATORS, METHODS, Setting, named
from maxgnr_jax import aggregators, maxgnr
from tests.helpers import commands
from tests.helpers.methods import public_methods

TASKS = ("canvas", "ink", "left", "right")


def test_every_digit_is_in_exactly_one_split():
  splits = [
    [image.tobytes() for image in part.image] for part in data.split(0.25).values()
  ]
  whole = [image.tobytes() for image in (load_digits().images / 16).astype(np.float32)]
  assert sorted(itertools.chain(*splits)) == sorted(whole)
  assert len(set(whole)) == len(whole)  # no digit occurs twice, so splits are disjoint
  sizes = [len(split) for split in splits]
  assert sizes == [1078, 360, 359]  # 60, 20 and 20 %


def test_canvas_shows_both_digits_and_targets_describe_them():
  train = data.split(0.25)["train"]
  left, right = np.random.default_rng(0).integers(len(train.label), size=(2, 50))
  batch = data.canvases(train, left, right)
  canvas = batch["canvas"].reshape(50, 8, data.WIDTH)
  images, labels = train.image, train.label
  np.testing.assert_array_equal(batch["left"], labels[left])
  np.testing.assert_array_equal(batch["right"], labels[right])
  for n in range(50):
    fits = []
    for part, label in ((np.s_[:, :8], batch["left"]), (np.s_[:, -8:], batch["right"])):
      candidates = images[labels == int(label[n])]
      inside = (candidates <= canvas[n][part] + 1e-6).all((1, 2))
      assert inside.any()
      fits.append(candidates[inside].mean((1, 2)))
    pair = (fits[0][:, None] + fits[1][None, :]) / 2
    assert np.isclose(pair, float(batch["ink"][n]), atol=1e-6).any()


def test_batches_depend_only_on_seed_and_step():
  problem = make_problem(DigitsSettings())
  one, other = (problem.train_batches(8, 3) for _ in range(2))
  for step in (5, 0):
    chex.assert_trees_all_equal(one[step], other[step])
  assert (one[0]["canvas"] != one[1]["canvas"]).any()
  assert (one[0]["canvas"] != problem.train_batches(8, 4)[0]["canvas"]).any()
  for split in ("train", "validation", "test"):
    (batch,) = problem.evaluation_batches(split)
    assert batch["canvas"].shape == (2_000, data.PIXELS)
  whole = make_problem(DigitsSettings(validation=0.0))
  assert not list(whole.evaluation_batches("validation"))


def test_delta_m_rewards_lower_errors_and_higher_accuracies():
  base = dict(zip(TASKS, (0.2, 0.1, 50.0, 80.0), strict=True))
  better = base | {"canvas": 0.1, "left": 75.0}  # +50 %, 0, +50 %, 0
  assert delta_m(better, base, pairs.METRICS) == pytest.approx(25.0)
  assert delta_m(base, base, pairs.METRICS) == 0.0


def test_sweep_and_report_commands_write_table_figures_and_results(
  tmp_path, capsys, quick_experiments
):
  methods = ["equal-weights", "flat-imtl-g", "maxgnr-0.9-by-layer"]
  out = ["--out", str(tmp_path)]
  options = ["--seeds", "2", "--epochs", "2", "--learning-rates", "1e-4", "1e-3"]
  options += ["--canvases-per-epoch", "640", "--steps-per-call", "10"]
  options += ["--tuning-seeds", "1", "--most-extensions", "0"]
  digits = "benchmarks.experiments", "digits"
  commands.run_here(*digits, "sweep", *out, *options, "--methods", *methods)
  commands.run_here(*digits, "report", *out, "--weights-of", methods[-1])
  said = capsys.readouterr().out
  assert (tmp_path / "table.md").read_text() in said
  assert "test set, the model at the end of training:" in said
  seeds = {path.name for path in (tmp_path / "runs").glob("*/*/seed-*")}
  assert seeds == {"seed-0", "seed-1", "seed-2"}  # 0 is for tuning, others reported
  figures = ("delta_m_last", "weights", "gnr", "gnr_over_training", "curves")
  for figure in figures:
    assert (tmp_path / f"{figure}.png").stat().st_size > 10_000
  results = json.loads((tmp_path / "results.json").read_text())
  assert results["command"].startswith("python -m benchmarks.experiments digits sweep ")
  assert set(results["rows"]["single-task"]["learning_rates"]) == set(TASKS)
  assert list(results["rows"]) == ["single-task", *methods]
  for row in results["rows"].values():
    assert len(row["delta_m"]["last"]) == 2
    assert np.isfinite(row["delta_m"]["last"]).all()
  last = results["last_epochs"]
  weights = {name: last[name]["weight"] for name in methods}
  assert list(weights["equal-weights"].values()) == pytest.approx([0.25] * 4)
  assert sum(weights["maxgnr-0.9-by-layer"].values()) == pytest.approx(1, abs=1e-5)
  assert min(last["maxgnr-0.9-by-layer"]["gnr"].values()) > 0
  assert "gnr" not in last["flat-imtl-g"]


@pytest.mark.parametrize(
  ("options", "message"),
  [
    (["--seeds", "0"], "seeds must be at least 1, got 0"),
    (["--steps-per-call", "99"], "must divide the 100 steps of an epoch, got 99"),
    (["--methods", "none-such"], "there is no method 'none-such'"),
    (["--methods", "maxgnr-0.9-sketch-8"], "an odd integer from 3"),
  ],
)
def test_sweep_command_rejects_invalid_options(options, message, tmp_path, capsys):
  out = str(tmp_path / "out")
  with pytest.raises(SystemExit) as stopped:
    __main__.main(["digits", "sweep", "--out", out, *options])
  assert stopped.value.code != 0
  assert message in "".join(capsys.readouterr()) + str(stopped.value)
  assert not (tmp_path / "out").exists()


def test_help_lists_every_problem_and_unknown_problems_are_rejected(capsys):
  with pytest.raises(SystemExit, match=r"^0$"):
    __main__.main(["--help"])
  lines = capsys.readouterr().out.splitlines()
  for name, text in PROBLEMS.items():
    assert any(line.split() == [name, *text.split()] for line in lines)
  with pytest.raises(SystemExit, match=r"^2$"):
    __main__.main(["none-such", "train"])
  assert "choose from" in capsys.readouterr().err


def test_every_method_makes_a_gradient_transformation():
  setting = Setting(len(TASKS), mlp.trunk_only, 100, mlp.layers)
  for method in METHODS.values():
    assert hasattr(method.make(setting), "update")


@pytest.mark.parametrize("option", ["by-layer", "last-layer", "last-bias"])
def test_method_of_certain_layers_rejects_a_problem_without_them(option):
  setting = Setting(len(TASKS), mlp.trunk_only, 100)
  with pytest.raises(ValueError, match=rf"maxgnr-0\.9-{option} needs a problem"):
    named(f"maxgnr-0.9-{option}").make(setting)


def selected(selection, tree):
  """Lists the arrays of a tree like the parameters that are marked with True."""
  return list(itertools.compress(jax.tree.leaves(tree), jax.tree.leaves(selection)))


def random_network():
  """Draws a network, as its graph and parameters, without compiling initialisers."""
  network = nnx.eval_shape(lambda: pairs.make_network(data.PIXELS, 8, nnx.Rngs(0)))
  graph, shapes = nnx.split(network)
  draw = np.random.default_rng(0).normal
  return graph, jax.tree.map(
    lambda x: jnp.asarray(draw(size=x.shape) / 8, jnp.float32), shapes
  )


def test_last_shared_layer_gets_what_the_heads_send_back():
  graph, params = random_network()
  canvas = np.random.default_rng(1).uniform(size=(5, data.PIXELS)).astype(np.float32)

  def loss(params, change):
    network = nnx.merge(graph, params)
    first, _, last, _ = network.trunk.layers
    inputs = nnx.relu(first(canvas))
    output = network.heads["left"](nnx.relu(last(inputs) + change))
    return jnp.sum(output**2), (inputs, output, network(canvas)["left"])

  grad = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))
  (grads, sent), (inputs, output, same) = grad(params, np.zeros((5, 8), np.float32))
  np.testing.assert_allclose(output, same, rtol=1e-4, atol=1e-6)
  problem = make_problem(DigitsSettings())
  (bias,) = selected(problem.last_bias(params), grads)
  np.testing.assert_allclose(bias, sent.sum(0), rtol=1e-4, atol=1e-6)
  bias_too, kernel = selected(problem.last_layer(params), grads)
  np.testing.assert_array_equal(bias_too, bias)
  np.testing.assert_allclose(kernel, inputs.T @ sent, rtol=1e-4, atol=1e-6)
  assert np.abs(kernel).max() > 1e-3


@pytest.mark.parametrize(
  ("option", "selection"),
  [("last-layer", mlp.last_layer), ("last-bias", mlp.last_bias)],
)
def test_momentum_is_kept_where_the_method_measures(option, selection):
  _, params = random_network()
  setting = Setting(
    len(TASKS), mlp.trunk_only, 100, None, mlp.last_layer, mlp.last_bias
  )
  state = named(f"maxgnr-0.9-{option}").make(setting).init(params)
  expected = [(len(TASKS), *x.shape) for x in selected(selection(params), params)]
  assert [x.shape for x in jax.tree.leaves(state.momentum)] == expected
  sketched = named(f"maxgnr-0.9-sketch-7-{option}").make(setting).init(params)
  assert sketched.momentum.shape == (len(TASKS), 7)


def test_options_of_the_frame_are_parsed_from_a_name():
  _, params = random_network()
  setting = Setting(len(TASKS), mlp.trunk_only, 100)
  for base in ("maxgnr-0.9-sketch-7", "mgda", "uncertainty", "random-weights"):
    name = f"{base}-smoothed-0.9-own-heads-rescaled"
    state = named(name).make(setting).init(params)
    assert state.smoothed.shape == (len(TASKS),)
    assert named(base).make(setting).init(params).smoothed is None
  with pytest.raises(ValueError, match=r"\[0, 1\)"):
    named("mgda-smoothed-1").make(setting)
  unit = named("mgda-smoothed-0.9-unit-length")
  assert (unit.unit_length, named("mgda-smoothed-0.9").unit_length) == (True, False)
  assert unit.make(setting).init(params).smoothed is not None
  with pytest.raises(ValueError, match="fixed-weights are taken as they are"):
    named("fixed-weights-unit-length")


def test_weights_and_gnr_by_layer_are_averaged_over_layers():
  params = jnp.ones(3)
  state = (
    maxgnr(num_tasks=2)
    .init(params)
    ._replace(
      weights=jnp.array([[0.5, 0.5], [0.25, 0.75]]),
      gnr=jnp.array([[1.0, 4.0], [4.0, 9.0]]),
    )
  )
  weights, gnr = weights_and_gnr(state, 2)
  np.testing.assert_allclose(weights, [0.375, 0.625])
  np.testing.assert_allclose(gnr, [2.0, 6.0], rtol=1e-6)
  constant, grads = aggregators.constant_weights([0.1, 0.9]), jnp.ones((2, 3))
  for tx in (constant, aggregators.flat_regions(constant)):
    _, state = tx.update(grads, tx.init(params), flat_grads=grads)
    weights, gnr = weights_and_gnr(state, 2)
    np.testing.assert_allclose(weights, [0.1, 0.9])
    assert np.isnan(gnr).all()
  for values in weights_and_gnr(aggregators.moco(num_tasks=2).init(params), 2):
    assert values.shape == (2,)
    assert np.isnan(values).all()


def test_options_of_maxgnr_are_parsed_from_its_name():
  assert named("maxgnr-0.7-every-3").refresh_every == 3
  for name in (
    "maxgnr-0.3-paper-solver-all",
    "maxgnr-0.99-noise-0.5-by-layer",
    "maxgnr-0.9-sketch-127-last-bias",
  ):
    assert named(name).refresh_every == 1
  for name in (
    "maxgnr-",
    "maxgnr-0.9-every-0",
    "maxgnr-0.9-all-all",
    "maxgnr-0.9-sketch-",
    "maxgnr-0.9-all-last-layer",
  ):
    with pytest.raises(ValueError, match="there is no method"):
      named(name)


def test_method_table_contains_every_public_aggregator():
  factories = {
    name for name in public_methods() if not name.endswith(("_weights", "_method"))
  }
  shown = {"flat_regions" if name.startswith("flat-") else name for name in METHODS}
  shown = {name.replace("-", "_").removesuffix("_2") for name in shown}
  assert factories <= shown
  assert factories | {"equal_weights", "random_weights"} <= set(AGGREGATORS)


def test_indicators_are_1_if_predictions_are_perfect_and_at_chance_if_constant():
  (batch,) = make_problem(DigitsSettings()).evaluation_batches("validation")
  perfect = {
    "canvas": batch["canvas"],
    "ink": batch["ink"][:, None],
    "left": jax.nn.one_hot(batch["left"], 10),
    "right": jax.nn.one_hot(batch["right"], 10),
  }
  constant = {
    "canvas": jnp.broadcast_to(batch["canvas"].mean(0)[None], batch["canvas"].shape),
    "ink": jnp.full((len(batch["ink"]), 1), batch["ink"].mean()),
    "left": jax.nn.one_hot(jnp.zeros(len(batch["left"]), int), 10),
    "right": jax.nn.one_hot(jnp.zeros(len(batch["right"]), int), 10),
  }
  for value in pairs.kpis(perfect, batch).values():
    assert float(value) == pytest.approx(1)
  for name, value in pairs.kpis(constant, batch).items():
    share = np.mean(batch[name] == 0)
    expected = share if name in ("left", "right") else 0
    assert float(value) == pytest.approx(expected, abs=1e-5)
