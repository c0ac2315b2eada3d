"""Tests steps on batches that have no label of some task."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from benchmarks.combination import combination
from benchmarks.experiments.model import Model
from benchmarks.experiments.problems.tox21.problem import (
  MoleculeSettings,
  make_problem,
)
from benchmarks.experiments.step import EpochSums, Trainer
from benchmarks.methods import Setting, named
from tests.helpers.marks import thorough_but
from tests.helpers.molecules import NAMES, write_molecules
from tests.helpers.trees import assert_same

pytestmark = pytest.mark.usefixtures("quick_experiments")

ABSENT, OTHERS = "b", ("a", "c")  # the absent task is between the others
TASKS = ("a", "b", "c")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
  data = write_molecules(tmp_path_factory.mktemp("data"))
  return Model(make_problem(MoleculeSettings(data=data, hidden=4)))


@pytest.fixture(scope="module")
def batches(model):
  """Returns a batch with labels of all tasks, and one without those of a task."""
  (batch,) = model.problem.evaluation_batches("train")
  batch = jax.tree.map(jnp.asarray, batch)
  return batch, without_labels(batch, ABSENT)


def without_labels(batch, *tasks):
  columns = jnp.array([NAMES.index(task) for task in tasks])
  return batch | {"label": batch["label"].at[:, columns].set(-1)}


def combined(model, method, tasks):
  problem = model.problem
  setting = Setting(len(tasks), problem.trunk_only, 3)
  losses = functools.partial(model.losses, tasks=tasks)
  return combination(named(method), losses, setting, labelled=model.labelled(tasks))


@pytest.fixture(scope="module")
def params_and_rest(model):
  network = model.problem.make_model(nnx.Rngs(0))
  return nnx.state(network, nnx.Param), nnx.state(network, nnx.Not(nnx.Param))


def gradient(model, method, tasks, params_and_rest, batch):
  params, rest = params_and_rest
  of_tasks = combined(model, method, tasks)
  take = jax.jit(of_tasks.value_and_grad)
  values, grad, _ = take(of_tasks.init(params), params, batch, rest)
  return values[0], grad


METHODS = (
  "equal-weights",  # by way of maxgnr
  "maxgnr-0.9",
  "maxgnr-0.9-every-4",  # by backward passes
  "imtl-l",  # losses only
  "mgda",  # a Gramian method
  "flat-imtl-g",
)
USUAL = ("maxgnr-0.9-every-4", "imtl-l")


@pytest.mark.parametrize("method", thorough_but(USUAL, METHODS))
def test_task_without_labels_is_as_if_it_did_not_exist(
  method, model, params_and_rest, batches
):
  _, batch = batches
  losses, found = gradient(model, method, TASKS, params_and_rest, batch)
  _, expected = gradient(model, method, OTHERS, params_and_rest, batch)
  assert losses[ABSENT] == 0
  for leaf in jax.tree.leaves(found["heads"][ABSENT]):
    assert not leaf.any()
  for leaf in jax.tree.leaves(found["heads"]["a"]):
    assert leaf.any()
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-4, atol=1e-6),
    found,
    expected,
  )


def test_batch_without_any_label_has_a_gradient_of_zero(
  model, params_and_rest, batches
):
  batch = without_labels(batches[0], *TASKS)
  _, found = gradient(model, "maxgnr-0.9", TASKS, params_and_rest, batch)
  _, alone = gradient(model, "equal-weights", (ABSENT,), params_and_rest, batches[1])
  for leaf in jax.tree.leaves((found, alone)):
    assert not leaf.any()


@pytest.mark.parametrize(
  "method", thorough_but(["maxgnr-0.9"], ["maxgnr-0.9", "maxgnr-0.9-every-4"])
)
def test_trainer_masks_tasks_and_averages_losses_over_labelled_steps(
  method, model, batches
):
  whole, without = batches
  trainer = Trainer(model, method, (), 24, optimizer="sgd")
  before = jax.tree.map(np.array, trainer.init(0, 0.1).params)
  state, (_, weights) = trainer.step(trainer.init(0, 0.1), without)
  assert weights[TASKS.index(ABSENT)] == 0
  assert_same(state.params["heads"][ABSENT], before["heads"][ABSENT])
  for name in OTHERS:
    kernel = state.params["heads"][name]["kernel"][...]
    assert (kernel != before["heads"][name]["kernel"][...]).any()
  state, (losses, _) = trainer.step(state, whole)
  assert state.epoch.labelled.tolist() == [2, 1, 2]
  loss = state.epoch.means(TASKS)["loss"][ABSENT]
  assert loss == pytest.approx(float(losses[TASKS.index(ABSENT)]), rel=1e-6)
  together = Trainer(model, method, (), 12, steps_per_call=2, optimizer="sgd")
  stacked = jax.tree.map(lambda *x: np.stack(x), without, whole)
  scanned, _ = together.steps(together.init(0, 0.1), stacked)
  assert scanned.epoch.labelled.tolist() == [2, 1, 2]
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6),
    scanned.params,
    state.params,
  )


def test_mean_loss_of_a_task_without_any_label_is_unknown():
  sums, ones = EpochSums.zeros(2), jnp.ones(2)
  for step in range(3):
    labelled = jnp.array([step > 0, False])
    sums = sums.add(jnp.array([4.0, 0.0]), labelled, ones, ones)
  assert sums.means(("x", "y"))["loss"] == {"x": 4.0, "y": None}


def test_parts_of_a_batch_are_rejected(model):
  with pytest.raises(ValueError, match="leave microbatches out for a problem with"):
    Trainer(model, "maxgnr-0.9", (), 8, microbatches=2)
