"""DWA beside its formula in NumPy, step by step."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maxgnr_jax import aggregators
from tests.helpers import inactive
from tests.helpers.loss_sequence import (
  LOSSES,
  NUM_STEPS,
  NUM_TASKS,
  assert_weights,
  softmax,
)

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("steps_per_epoch", [1, 3, 4])
@pytest.mark.parametrize("temperature", [2.0, 0.3])
def test_dwa_compares_the_mean_losses_of_the_last_two_epochs(
  steps_per_epoch, temperature
):
  expected = []
  for step in range(NUM_STEPS):
    begin = step // steps_per_epoch * steps_per_epoch
    last = LOSSES[begin - steps_per_epoch : begin]
    before = LOSSES[begin - 2 * steps_per_epoch : begin - steps_per_epoch]
    rate = np.ones(NUM_TASKS)
    if begin >= 2 * steps_per_epoch:
      rate = last.mean(0) / before.mean(0)
    expected.append(NUM_TASKS * softmax(rate / temperature))
  assert_weights(
    aggregators.dwa(steps_per_epoch, temperature, num_tasks=NUM_TASKS), expected
  )


def test_dwa_counts_a_tasks_epochs_by_its_own_steps():
  make = functools.partial(aggregators.dwa, 2)
  order = [0, 0, 0, 2, 0]  # which task is inactive in each step
  masks = np.stack([inactive.all_but(task) for task in order])
  losses = inactive.LOSSES
  _, state = inactive.run(make, masks, losses=losses)
  last = np.asarray(state.memory["last_epoch"])
  np.testing.assert_allclose(last[2, 1], losses[:2, 1].mean(), rtol=1e-6)
  np.testing.assert_allclose(last[4, 2], losses[:2, 2].mean(), rtol=1e-6)
  np.testing.assert_array_equal(last[:, 0], 0)
  np.testing.assert_allclose(state.memory["loss_sum"][-1, 0], losses[3, 0], rtol=1e-6)


def test_a_late_task_is_compared_after_two_epochs_of_its_own():
  make, losses = functools.partial(aggregators.dwa, 1), inactive.LOSSES
  _, state = inactive.run(make, inactive.LATE, losses=losses)
  rate = jnp.append(jnp.float32(1.0), losses[2, 1:] / losses[1, 1:])
  expected = inactive.NUM_TASKS * jax.nn.softmax(rate / 2.0)
  np.testing.assert_allclose(state.weights[3], expected, rtol=1e-5)
