"""IMTL-L beside gradient descent in NumPy."""

import numpy as np
import optax
import pytest

from maxgnr_jax import aggregators
from tests.helpers.examples import scanned
from tests.helpers.loss_sequence import NUM_TASKS, OPTIMIZERS, assert_weights

pytestmark = pytest.mark.usefixtures("quick_compilation", "float64")


@pytest.mark.parametrize(("optimizer", "by_hand"), OPTIMIZERS, ids=["sgd", "adam"])
def test_imtl_l_follows_its_optimizer_on_the_log_scales(
  optimizer, by_hand, standard_promotion
):
  # exp(s) L - s
  steps = by_hand(lambda s, losses: np.exp(s) * losses - 1, 0.03)
  tx = aggregators.imtl_l(optimizer(0.03), num_tasks=NUM_TASKS)
  assert_weights(tx, [np.exp(s) for s in steps])


def test_imtl_l_converges_to_minus_the_losses_logarithms():
  tx = aggregators.imtl_l(optax.sgd(0.2), num_tasks=NUM_TASKS)
  losses = np.tile([0.5, 1.0, 3.0], (300, 1))
  _, _, state = scanned(tx, np.ones((300, NUM_TASKS, 1)), losses=losses)
  expected = -np.log(losses[0])
  np.testing.assert_allclose(state.memory["log_scale"], expected, atol=1e-6)
