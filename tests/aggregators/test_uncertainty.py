"""Uncertainty weighting beside gradient descent in NumPy."""

import numpy as np
import optax
import pytest

from maxgnr_jax import aggregators
from tests.helpers.examples import scanned
from tests.helpers.loss_sequence import NUM_TASKS, OPTIMIZERS, assert_weights

pytestmark = pytest.mark.usefixtures("quick_compilation", "float64")


@pytest.mark.parametrize(("optimizer", "by_hand"), OPTIMIZERS, ids=["sgd", "adam"])
def test_uncertainty_follows_its_optimizer_on_the_log_variances(
  optimizer, by_hand, standard_promotion
):
  # ½ exp(-s) L + ½ s
  steps = by_hand(lambda s, losses: 0.5 - 0.5 * np.exp(-s) * losses, 0.05)
  tx = aggregators.uncertainty(optimizer(0.05), num_tasks=NUM_TASKS)
  assert_weights(tx, [0.5 * np.exp(-s) for s in steps])


def test_uncertainty_converges_to_the_losses_logarithms():
  tx = aggregators.uncertainty(optax.sgd(0.2), num_tasks=NUM_TASKS)
  losses = np.tile([0.5, 1.0, 3.0], (300, 1))
  _, _, state = scanned(tx, np.ones((300, NUM_TASKS, 1)), losses=losses)
  expected = np.log(losses[0])
  np.testing.assert_allclose(state.memory["log_variance"], expected, atol=1e-6)
