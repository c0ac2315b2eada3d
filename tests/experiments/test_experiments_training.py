"""Tests that interrupted runs resume to the same result, and what runs write."""

import csv
import dataclasses
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from benchmarks.experiments import cli, train
from benchmarks.experiments import model as models
from benchmarks.experiments.checkpoint import Best, load_model
from benchmarks.experiments.loading import in_order
from benchmarks.experiments.model import Model
from benchmarks.experiments.problems.fashion.data import fixed_pairs, load
from benchmarks.experiments.problems.fashion.problem import (
  FashionSettings,
  make_problem,
)
from benchmarks.experiments.step import Trainer
from tests.helpers.commands import quick_environment
from tests.helpers.experiments import (
  ROOT,
  STEPS,
  STEPS_PER_EPOCH,
  flags,
  tiny_run,
  tiny_sweep,
  write_images,
)
from tests.helpers.trees import assert_same

pytestmark = pytest.mark.usefixtures("quick_experiments")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  return write_images(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def model(data):
  return Model(make_problem(make_run(data)))


@pytest.fixture(scope="module")
def trainer(model, data, quick_experiments):
  return train.make_trainer(model, make_run(data))


@pytest.fixture(scope="module")
def whole(trainer, data, tmp_path_factory):
  """Trains without interruption and returns the settings and the result."""
  run = make_run(data, tmp_path_factory.mktemp("whole"), tensorboard=True)
  return run, train.train(trainer, run)


def best_model(trainer, folder):
  state = trainer.init(0, 1.0)
  like = Best(np.array(0.0), np.array(0), state.params, state.rest)
  return load_model(folder / "model", like)


def assert_same_run(trainer, folder, other):
  for name in ("run.json", "result.json", "history.csv"):
    assert (folder / name).read_text() == (other / name).read_text()
  assert_same(*(best_model(trainer, x) for x in (folder, other)))
  assert not (folder / "checkpoints").exists()


# This method's state holds both numbers and a random key.
METHOD = "random-weights"


def make_run(data, out=Path("unused"), **settings):
  return tiny_run(data, out, **{"method": METHOD} | settings)


def command(argv):
  cli.main("benchmarks.experiments fashion", FashionSettings, make_problem, argv=argv)


class Interruption(Exception):
  pass


def interrupt_at(step):
  """Makes a progress callback that stops a run in ``step``, before it is saved."""
  done = 0

  def progress(steps, line):
    nonlocal done
    done += steps
    if done >= step:
      raise Interruption

  return progress


def interrupted(trainer, run, step):
  """Interrupts a run in ``step``, after a checkpoint at every earlier step."""
  with pytest.raises(Interruption):
    train.train(
      trainer, dataclasses.replace(run, checkpoint_seconds=0), interrupt_at(step)
    )


def resumed(trainer, run):
  """Resumes a run; returns its result and the steps in each report of progress."""
  steps = []
  run = dataclasses.replace(run, resume=True)
  result = train.train(trainer, run, lambda number, line: steps.append(number))
  return result, steps


# In the first step, at the end of an epoch and in the middle of one.
@pytest.mark.parametrize("step", [1, 4, 6])
def test_interrupted_run_resumes_to_the_same_result(
  step, trainer, data, whole, tmp_path
):
  run = make_run(data, tmp_path)
  interrupted(trainer, run, step)
  result, steps = resumed(trainer, run)
  assert result == whole[1]
  found = [step - 1] if step > 1 else []
  assert steps == [*found, *[1] * (STEPS - step + 1)]
  assert_same_run(trainer, tmp_path, whole[0].out)


def test_run_interrupted_three_times_resumes_to_the_same_result(
  trainer, data, whole, tmp_path, monkeypatch
):
  run = make_run(data, tmp_path)
  interrupted(trainer, run, 3)
  run = dataclasses.replace(run, resume=True, checkpoint_seconds=0)
  interrupted(trainer, run, STEPS)

  def fail(*args):
    raise Interruption

  # Interrupts after the last step, before any part of the result is written.
  with monkeypatch.context() as patch:
    patch.setattr(train, "save_model", fail)
    with pytest.raises(Interruption):
      train.train(trainer, run)
  result, steps = resumed(trainer, run)
  assert steps == [STEPS]
  assert result == whole[1]
  assert_same_run(trainer, tmp_path, whole[0].out)


@pytest.mark.thorough
def test_killed_process_is_resumed_from_the_command_line(
  trainer, data, tmp_path, monkeypatch
):
  epochs = 8
  run = make_run(data, tmp_path / "whole", epochs=epochs)
  train.train(trainer, run)
  out = tmp_path / "killed"
  arguments = [
    "train",
    "--data",
    str(data),
    "--out",
    str(out),
    *flags(epochs=epochs, method=METHOD),
  ]
  # The same compiler options as in this process give the same numbers.
  program = f"""
from benchmarks.experiments import __main__, model
model.CPU_OPTIONS = {models.CPU_OPTIONS}
__main__.main()
"""
  started = [sys.executable, "-c", program, "fashion", *arguments]
  with subprocess.Popen(
    [*started, "--checkpoint-seconds", "0"],
    cwd=ROOT,
    env=quick_environment(),
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
  ) as process:
    # Only complete checkpoints are named by their step number.
    while not any(
      path.name.isdigit() and int(path.name) > 5 for path in out.glob("checkpoints/*")
    ):
      assert process.poll() is None, process.stderr.read().decode()[-3000:]
      time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
  assert process.returncode == -signal.SIGKILL
  assert not (out / "result.json").exists()
  monkeypatch.setattr(cli, "make_trainer", lambda model, run: trainer)
  command([*arguments, "--resume"])
  assert_same_run(trainer, out, run.out)


def test_finished_run_is_not_trained_again(trainer, whole, monkeypatch):
  run, result = whole
  monkeypatch.setattr(Trainer, "step", None)
  assert train.train(trainer, dataclasses.replace(run, resume=True)) == result


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({}, "resume it"),
    ({"resume": True, "seed": 1}, r"\(seed: 0 there, 1 here\)"),
    (
      {"epochs": 4, "learning_rate": 0.1},
      r"\(epochs: 3 there, 4 here; learning_rate: 0.01 there, 0.1 here\)",
    ),
    ({"resume": True, "method": "dwa"}, "'random-weights' there, 'dwa' here"),
    ({"resume": True, "tasks": ("ink",)}, r"tasks: \[\] there, \['ink'\] here"),
    ({"resume": True, "validation": 0.5}, "validation: 0.0 there, 0.5 here"),
  ],
)
def test_existing_run_is_not_overwritten_or_resumed_with_other_settings(
  settings, message, trainer, whole
):
  with pytest.raises(ValueError, match=message):
    train.train(trainer, dataclasses.replace(whole[0], **settings))


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({"method": "none-such"}, "no method 'none-such'.*pcgrad"),
    ({"gamma": 1.5, "method": "maxgnr-"}, "no method 'maxgnr-'"),
    ({"batch_size": 8, "microbatches": 3}, "3 parts of 8"),
    ({"microbatches": 0}, "microbatches must be at least 1, got 0"),
    ({"epochs": 0}, "epochs must be at least 1"),
    ({"steps_per_call": 0}, "steps_per_call must be at least 1, got 0"),
    ({"validation": 1.0}, r"validation must be in \[0, 1\), got 1.0"),
    ({"validation": -0.1}, "validation"),
    ({"learning_rate": 0.0}, "learning_rate must be positive, got 0.0"),
    ({"learning_rate": float("nan")}, "learning_rate must be positive, got nan"),
  ],
)
def test_invalid_settings_of_a_run_are_rejected(settings, message, data):
  with pytest.raises(ValueError, match=message):
    make_run(data, **settings)


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({"learning_rates": (0.1, 0.2)}, "never on the test set"),
    ({"methods": ("dwa", "none-such")}, "no method 'none-such'"),
    ({"seeds": 0}, "seeds must be at least 1"),
    ({"jobs": 0}, "jobs must be at least 1"),
    ({"most_extensions": -1}, "most_extensions must be at least 0, got -1"),
    ({"seeds": 2, "tuning_seeds": 3}, "tuning_seeds must be at most seeds, got 3 of 2"),
  ],
)
def test_invalid_settings_of_a_sweep_are_rejected(settings, message, data, tmp_path):
  with pytest.raises(ValueError, match=message):
    tiny_sweep(data, tmp_path, **settings)
  tiny_sweep(data, tmp_path, learning_rates=(0.1, 0.1))  # counts as one rate


def test_trainer_rejects_unknown_tasks_and_unsuitable_batches(model):
  with pytest.raises(ValueError, match="among canvas, ink, left, right, got 'top'"):
    Trainer(model, "dwa", ("top",), 8)
  with pytest.raises(ValueError, match=r"at most the 32 examples.*got 33"):
    Trainer(model, "dwa", (), 33)
  with pytest.raises(ValueError, match="3 parts of a batch"):
    Trainer(model, "dwa", (), 8, 3)
  with pytest.raises(ValueError, match="divide the 4 steps of an epoch, got 3"):
    Trainer(model, "dwa", (), 8, steps_per_call=3)


def test_optimiser_gets_updates_of_unit_length(model):
  batch, changes = model.problem.train_batches(8, 0)[0], []
  for method in ("equal-weights", "equal-weights-unit-length"):
    trainer = Trainer(model, method, (), 8, optimizer="sgd")
    before = jax.tree.map(np.array, trainer.init(0, 0.1).params)
    state, _ = trainer.step(trainer.init(0, 0.1), batch)
    changes.append(jax.tree.map(lambda x, y: x - y, state.params, before))
  plain, unit = changes
  assert optax.tree.norm(unit) == pytest.approx(0.1, rel=1e-3)
  expected = optax.tree.scale(0.1 / optax.tree.norm(plain), plain)
  chex.assert_trees_all_close(unit, expected, rtol=1e-2, atol=1e-5)


def test_some_tasks_are_trained_jointly_by_the_method(model, data):
  run = make_run(data, method="slaw", tasks=("left", "ink", "left"))
  assert run.tasks == ("ink", "left")
  identity = run.identity("title")
  assert (identity["method"], identity["tasks"]) == ("slaw", ["ink", "left"])
  trainer = train.make_trainer(model, run)
  assert trainer.tasks == ("ink", "left")
  state = trainer.init(0, 0.1)
  before = jax.tree.map(np.array, state.params)
  state, (losses, weights) = trainer.step(state, model.problem.train_batches(8, 0)[0])
  assert losses.shape == weights.shape == (2,)
  after = jax.tree.map(np.array, state.params)
  same = {
    task: np.array_equal(head["kernel"][...], after["heads"][task]["kernel"][...])
    for task, head in before["heads"].items()
  }
  assert same == {"canvas": True, "ink": False, "left": False, "right": True}


@pytest.fixture(scope="module")
def trainer_of_two_steps(model, data, quick_experiments):
  return train.make_trainer(model, make_run(data, steps_per_call=2))


def test_several_steps_per_call_train_like_single_steps(
  trainer, trainer_of_two_steps, data, whole, tmp_path
):
  run = make_run(data, tmp_path, steps_per_call=2)
  calls = []
  result = train.train(trainer_of_two_steps, run, lambda n, line: calls.append(n))
  assert calls == [2] * (STEPS // 2)
  for found, expected in zip(result["history"], whole[1]["history"], strict=True):
    for name in ("loss", "weight", "test"):
      assert found[name] == pytest.approx(expected[name], rel=1e-3)
  states = [x.init(0, 1e-2) for x in (trainer, trainer_of_two_steps)]
  first, second = (trainer.problem.train_batches(8, 0)[step] for step in (0, 1))
  both = jax.tree.map(lambda *x: np.stack(x), first, second)
  one, _ = trainer.step(states[0], first)
  one, (losses, weights) = trainer.step(one, second)
  other, (last_losses, last_weights) = trainer_of_two_steps.steps(states[1], both)
  assert one.step == other.step == one.epoch.steps == other.epoch.steps == 2
  np.testing.assert_allclose(losses, last_losses, rtol=1e-4)
  np.testing.assert_allclose(weights, last_weights, rtol=1e-4)
  leaves = map(jax.tree.leaves, (one.params, other.params))
  chex.assert_trees_all_close(*leaves, rtol=1e-3, atol=1e-5)


# In the first call, at the end of an epoch and in the middle of one.
@pytest.mark.parametrize("step", [1, 4, 6])
def test_interrupted_run_with_several_steps_per_call_resumes_to_the_same_result(
  step, trainer_of_two_steps, data, tmp_path
):
  whole = make_run(data, tmp_path / "whole", steps_per_call=2)
  expected = train.train(trainer_of_two_steps, whole)
  run = make_run(data, tmp_path / "interrupted", steps_per_call=2)
  interrupted(trainer_of_two_steps, run, step)
  result, steps = resumed(trainer_of_two_steps, run)
  assert result == expected
  done = (step - 1) // 2 * 2
  assert steps == [*([done] if done else []), *[2] * ((STEPS - done) // 2)]
  assert_same_run(trainer_of_two_steps, run.out, whole.out)


def test_microbatches_train_like_the_whole_batch(model, trainer, data, monkeypatch):
  parts = train.make_trainer(model, make_run(data, microbatches=2))
  # Reusing these functions saves seconds of compilation.
  for name in ("_init_rest", "_second_part"):
    monkeypatch.setattr(parts, name, getattr(trainer, name))
  states = [x.init(0, 1e-2) for x in (trainer, parts)]
  for step in range(STEPS_PER_EPOCH):
    batch = model.problem.train_batches(8, 0)[step]
    batch = model.on_devices(batch)
    gradients = [
      x.gradients(state.params, batch, state.rest)[1]["grads"]
      for x, state in zip((trainer, parts), states, strict=True)
    ]
    leaves = map(jax.tree.leaves, gradients)
    chex.assert_trees_all_close(*leaves, rtol=1e-3, atol=1e-5)
    done = [
      x.step(state, batch) for x, state in zip((trainer, parts), states, strict=True)
    ]
    states = [state for state, _ in done]
    (losses, weights), (losses_of_parts, weights_of_parts) = (x for _, x in done)
    np.testing.assert_allclose(losses, losses_of_parts, rtol=1e-4)
    np.testing.assert_allclose(weights, weights_of_parts, atol=1e-3)


def test_flags_override_settings_from_a_file(data, tmp_path, monkeypatch, capsys):
  given = []

  def pretend(trainer, run):
    given.append(run)
    splits = {"test": dict.fromkeys(trainer.problem.tasks, 0.5)}
    return {"last": splits, "best": splits}

  monkeypatch.setattr(cli, "train_with_bar", pretend)
  file = tmp_path / "settings.toml"
  file.write_text(
    f'data = "{data}"\nlearning-rate = 0.5\nbatch_size = 4\ntensorboard = true\n'
    "resume = false\npool = 6\n"
  )
  command(["train", "--config", str(file), "--batch-size", "16", "--seed", "3"])
  (run,) = given
  assert (run.data, run.learning_rate, run.batch_size, run.seed) == (data, 0.5, 16, 3)
  assert run.tensorboard
  assert not run.resume
  assert run.pool == 6
  assert run.epochs == 30  # the problem's default
  printed = capsys.readouterr().out
  assert "test, the model at the end of training" in printed
  assert "left accuracy: 0.5" in printed


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["--no-such-setting", "1"], "no-such-setting"),
    (["--method", "none-such"], "there is no method 'none-such'"),
    (["--batch-size", "8", "--microbatches", "3"], "3 parts of 8"),
    (["--data", "nowhere.npz"], "nowhere.npz is none"),
    (["--config", "nowhere.toml"], "nowhere.toml"),
    (["--config"], "--config"),
  ],
)
def test_command_line_reports_invalid_arguments(
  arguments, message, data, tmp_path, capsys
):
  with pytest.raises(SystemExit) as stopped:
    command(["train", "--data", str(data), "--out", str(tmp_path / "x"), *arguments])
  said = "".join(capsys.readouterr()) + str(stopped.value)
  assert stopped.value.code != 0
  assert message in said
  assert not (tmp_path / "x").exists()


def test_unknown_setting_in_a_file_is_rejected(data, tmp_path, capsys):
  file = tmp_path / "settings.toml"
  file.write_text(f'data = "{data}"\nlearning-rats = 0.5\n')
  with pytest.raises(SystemExit):
    command(["train", "--config", str(file)])
  assert "learning-rats" in "".join(capsys.readouterr())


def test_result_holds_the_best_epoch_and_the_mean_of_the_last_ones(
  trainer, data, whole, tmp_path, monkeypatch
):
  step = trainer.step

  def step_too_far_after_six_epochs(state, batch):
    if state.step == 6 * STEPS_PER_EPOCH:
      rate = trainer.model.replicate(jnp.float32(100))
      hyperparams = state.optimizer.hyperparams | {"learning_rate": rate}
      optimizer = state.optimizer._replace(hyperparams=hyperparams)
      state = state._replace(optimizer=optimizer)
    return step(state, batch)

  monkeypatch.setattr(trainer, "step", step_too_far_after_six_epochs)
  run = make_run(data, tmp_path, epochs=12)  # more than are averaged
  result = train.train(trainer, run)
  for found, folder in ((result, tmp_path), (whole[1], whole[0].out)):
    history = found["history"]
    losses = np.array([list(row["loss"].values()) for row in history])
    score = losses.prod(1) ** (1 / losses.shape[1])
    assert found["best_epoch"] == 1 + score.argmin()
    assert found["best"] == {"test": history[score.argmin()]["test"]}
    for name, value in found["last"]["test"].items():
      evaluations = [row["test"][name] for row in history[-10:]]
      assert value == pytest.approx(sum(evaluations) / len(evaluations), rel=1e-12)
    best = best_model(trainer, folder)
    assert best.epoch == found["best_epoch"]
    assert best.score == pytest.approx(score.min(), rel=1e-9)
    batches = trainer.problem.evaluation_batches("test")
    metrics = trainer.model.evaluate(best.params, best.rest, batches)
    assert metrics == found["best"]["test"]
  assert 1 < result["best_epoch"] <= 6


def test_csv_and_tensorboard_logs_hold_the_history(whole, trainer):
  run, result = whole
  with (run.out / "history.csv").open(newline="") as file:
    rows = list(csv.DictReader(file))
  assert len(rows) == len(result["history"]) == 3
  for row, expected in zip(rows, result["history"], strict=True):
    flat = {"epoch": expected["epoch"]}
    for group in ("loss", "weight", "gnr", "test"):
      flat |= {f"{group}/{name}": x for name, x in expected[group].items()}
    assert {name: float(text) if text else None for name, text in row.items()} == flat
    assert sum(expected["weight"].values()) == pytest.approx(1, abs=1e-5)
  assert json.loads((run.out / "result.json").read_text()) == result
  assert result["identity"]["method"] == METHOD
  (events,) = (run.out / "tensorboard").iterdir()
  content = events.read_bytes()
  measured = {name for name, text in rows[-1].items() if text}
  assert {"loss/ink", "weight/ink", "test/ink"} < measured
  for name in rows[0]:
    assert (name.encode() in content) == (name in measured)


def test_metrics_do_not_depend_on_the_batch_size(trainer, model, data):
  state = trainer.init(0, 1.0)
  _, test = load(data)
  pairs = fixed_pairs(test, 6, 16)
  found = [
    model.evaluate(state.params, state.rest, in_order(pairs, size))
    for size in (16, 7, 1)
  ]
  for other in found[1:]:
    assert other == pytest.approx(found[0], rel=1e-6)
  assert found[0] == model.evaluate(
    state.params, state.rest, model.problem.evaluation_batches("test")
  )
  assert model.evaluate(state.params, state.rest, iter(())) is None
