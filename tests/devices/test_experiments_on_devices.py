"""Compares experiments on eight devices, which share each batch, with one device."""

import dataclasses

import chex
import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from benchmarks.experiments.loading import in_order
from benchmarks.experiments.model import Model
from benchmarks.experiments.problems.fashion.data import fixed_pairs, load
from benchmarks.experiments.problems.fashion.problem import make_problem
from benchmarks.experiments.step import Trainer
from benchmarks.experiments.train import make_trainer, train
from tests.helpers.experiments import of_two_tasks, tiny_run, write_images

pytestmark = pytest.mark.usefixtures("quick_experiments")
NAME = "maxgnr-0.9"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  data = write_images(tmp_path_factory.mktemp("data"))
  return tiny_run(data, batch_size=16, epochs=2)


@pytest.fixture(scope="module")
def trainers(run, quick_experiments):
  """Makes a trainer on all devices and one on the first device."""
  problem = of_two_tasks(make_problem(run))
  models = Model(problem), Model(problem, jax.devices()[:1])
  return [make_trainer(model, run) for model in models]


def assert_close(one, other, **tolerance):
  chex.assert_trees_all_close(*map(jax.tree.leaves, (one, other)), **tolerance)


def test_steps_agree_on_one_device_and_on_eight(trainers):
  states = [trainer.init(0, 1e-3) for trainer in trainers]
  assert_close(states[0].params, states[1].params, rtol=1e-6)
  for step in range(4):
    batch = trainers[0].problem.train_batches(16, 0)[step]
    (one, shown), (other, other_shown) = (
      trainer.step(state, batch)
      for trainer, state in zip(trainers, states, strict=True)
    )
    states = [one, other]
    assert_close(shown, other_shown, rtol=1e-3)
  assert_close(states[0].params, states[1].params, rtol=1e-3, atol=1e-4)
  for state, number in zip(states, (8, 1), strict=True):
    for leaf in jax.tree.leaves(state):
      assert leaf.sharding.is_fully_replicated
      assert len(leaf.sharding.device_set) == number


def test_each_device_gets_an_equal_part_of_a_batch(trainers):
  model = trainers[0].model
  batch = model.problem.train_batches(16, 0)[0]
  for name, array in model.on_devices(batch).items():
    assert array.sharding.spec == P("data")
    shards = sorted(array.addressable_shards, key=lambda shard: shard.device.id)
    assert [len(shard.data) for shard in shards] == [2] * 8
    np.testing.assert_array_equal(
      np.concatenate([shard.data for shard in shards]), batch[name]
    )


def test_batches_that_devices_cannot_share_evenly_are_rejected(trainers):
  model = trainers[0].model
  with pytest.raises(ValueError, match=r"8 devices must share .* got a batch of 12"):
    Trainer(model, NAME, (), 12)
  with pytest.raises(ValueError, match="each of 4 parts of a batch evenly"):
    Trainer(model, NAME, (), 16, microbatches=4)
  Trainer(model, NAME, (), 16, microbatches=2)
  Trainer(trainers[1].model, NAME, (), 12)


def test_incomplete_last_batch_of_an_evaluation_is_replicated(trainers, run):
  _, images = load(run.data)
  pairs = fixed_pairs(images, run.pool, 20)
  found = []
  for trainer in trainers:
    state = trainer.init(0, 1e-3)
    batches = list(in_order(pairs, 16))
    last = trainer.model.on_devices(batches[-1])
    assert all(array.sharding.is_fully_replicated for array in last.values())
    found.append(trainer.model.evaluate(state.params, state.rest, batches))
  assert found[0] == pytest.approx(found[1], rel=1e-5)


class Interruption(Exception):
  pass


@pytest.mark.thorough
def test_interrupted_run_resumes_on_other_devices(trainers, run, tmp_path):
  undisturbed = dataclasses.replace(run, out=tmp_path / "undisturbed")
  expected = train(trainers[0], undisturbed)
  run = dataclasses.replace(run, out=tmp_path / "moved", checkpoint_seconds=0)
  steps = []

  def stop(*args):
    steps.append(args)
    if len(steps) == 3:
      raise Interruption

  with pytest.raises(Interruption):
    train(trainers[1], run, stop)
  result = train(trainers[0], dataclasses.replace(run, resume=True))
  for row, other in zip(result["history"], expected["history"], strict=True):
    for task, loss in row["loss"].items():
      assert loss == pytest.approx(other["loss"][task], rel=1e-3)
