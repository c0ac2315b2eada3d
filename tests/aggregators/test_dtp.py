"""DTP beside its formula in NumPy, step by step."""

import numpy as np
import pytest

from maxgnr_jax import aggregators
from tests.helpers import inactive
from tests.helpers.loss_sequence import LOSSES, NUM_TASKS, assert_weights

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_dtp_gives_little_weight_to_tasks_that_perform_well(gamma):
  kpis = np.random.default_rng(1).uniform(0.05, 0.95, LOSSES.shape)
  mean, expected = kpis[0], []
  for step, kpi in enumerate(kpis):
    mean = kpi if step == 0 else 0.3 * kpi + 0.7 * mean
    expected.append(-((1 - mean) ** gamma) * np.log(mean))
  assert_weights(aggregators.dtp(gamma, 0.3, num_tasks=NUM_TASKS), expected, kpis=kpis)


def test_the_average_kpi_of_a_late_task_begins_with_its_first_kpi():
  kpis = inactive.LOSSES / 4
  _, state = inactive.run(aggregators.dtp, inactive.LATE, kpis=kpis)
  np.testing.assert_allclose(state.memory["kpi"][2, 0], kpis[2, 0], rtol=1e-6)
