"""DB-MTL beside its formula in NumPy, step by step."""

import numpy as np
import pytest

from maxgnr_jax import aggregators
from tests.helpers import inactive
from tests.helpers.examples import scanned
from tests.helpers.gradient_sequence import COMMON, JACOBIANS, LOSSES, NUM_TASKS

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_db_mtl_sums_averaged_log_loss_gradients_scaled_to_one_length(decay, float64):
  average, updates = np.zeros_like(COMMON), []
  for step, (grads, losses) in enumerate(zip(JACOBIANS, LOSSES, strict=True), start=1):
    beta = 0.9 / step**decay
    average = beta * average + (1 - beta) * grads / losses[:, None]
    lengths = np.linalg.norm(average, axis=1)
    scales = lengths.max() / lengths
    updates.append(scales @ average)
  tx = aggregators.db_mtl(0.9, decay, num_tasks=NUM_TASKS)
  _, actual_updates, state = scanned(tx, JACOBIANS, losses=LOSSES)
  # The library adds 1e-8 to the losses, as the authors do.
  assert state.weights is None
  np.testing.assert_allclose(actual_updates, updates, rtol=1e-6)
  np.testing.assert_allclose(state.memory["average"], average, rtol=1e-6)


def test_db_mtl_keeps_a_tasks_average_where_its_loss_is_negative():
  losses = inactive.LOSSES.at[1:, 2].set(-1.0)
  masks = np.ones((inactive.NUM_STEPS, inactive.NUM_TASKS), bool)
  _, state = inactive.run(aggregators.db_mtl, masks, losses=losses)
  average = state.memory["average"]
  np.testing.assert_array_equal(average[-1, 2], average[0, 2])
  np.testing.assert_array_equal(state.notfinite_count[-1], 0)
