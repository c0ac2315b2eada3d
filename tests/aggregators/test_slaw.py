"""SLAW beside its formula in NumPy, step by step."""

import numpy as np
import pytest

from maxgnr_jax import aggregators
from tests.helpers import inactive
from tests.helpers.loss_sequence import LOSSES, NUM_STEPS, NUM_TASKS, assert_weights

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.mark.usefixtures("float64")
def test_slaw_weights_are_inverse_to_the_losses_standard_deviations():
  beta, expected = 0.75, []
  for step in range(1, NUM_STEPS + 1):
    # The mean over the first 1 / (1 - β) steps, then an exponential average.
    share = np.full(min(step, 4), 1 / min(step, 4))
    for _ in range(4, step):
      share = np.append(beta * share, 1 - beta)
    mean, mean_square = share @ LOSSES[:step], share @ LOSSES[:step] ** 2
    deviation = np.sqrt(np.maximum(mean_square - mean**2, 0))
    inverse = 1 / np.maximum(deviation, 1e-5)
    expected.append(NUM_TASKS * inverse / inverse.sum())
  assert_weights(aggregators.slaw(beta, num_tasks=NUM_TASKS), expected)


def test_a_late_task_has_weight_one_in_its_first_step():
  # A single loss has no deviation, so that its weight is not known yet.
  _, state = inactive.run(aggregators.slaw, inactive.LATE, losses=inactive.LOSSES)
  assert state.weights[2, 0] == 1
  sums = inactive.LATE.sum(axis=1)
  np.testing.assert_allclose(state.weights.sum(axis=1), sums, rtol=1e-5)
