"""GradNorm beside its formula in NumPy, step by step."""

import functools

import numpy as np
import optax
import pytest

from maxgnr_jax import aggregators
from tests.helpers import inactive
from tests.helpers.examples import scanned
from tests.helpers.loss_sequence import JACOBIANS, LOSSES, NUM_TASKS

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("alpha", [0.0, 1.5])
@pytest.mark.parametrize("rate", [0.01, 0.5])
def test_gradnorm_descends_on_the_distance_to_its_target_norms(alpha, rate):
  w, expected = np.ones(NUM_TASKS), []
  norms = np.linalg.norm(JACOBIANS, axis=2)
  for losses, norm in zip(LOSSES, norms, strict=True):
    expected.append(w)
    remaining = losses / LOSSES[0]
    wanted = np.mean(w * norm) * (remaining / remaining.mean()) ** alpha
    # d/dw of Σ |w ‖g‖ - wanted|, the wanted norms constant; 0 is the least weight.
    w = np.maximum(w - rate * np.sign(w * norm - wanted) * norm, 0)
    w = NUM_TASKS * w / w.sum()
  assert rate < 0.5 or np.min(expected) == 0
  tx = aggregators.gradnorm(alpha, optax.sgd(rate), num_tasks=NUM_TASKS)
  weights, _, _ = scanned(tx, JACOBIANS, losses=LOSSES)
  np.testing.assert_allclose(weights, expected, rtol=1e-9, atol=1e-12)


def test_the_first_loss_of_a_late_task_is_that_of_its_own_first_step():
  make = functools.partial(aggregators.gradnorm, optimizer=optax.sgd(0.1))
  _, state = inactive.run(make, inactive.LATE, losses=inactive.LOSSES)
  first = state.memory["first_losses"][2:, 0]
  np.testing.assert_array_equal(first, inactive.LOSSES[2, 0])
