"""GO4Align against the authors' code, and properties of its groups."""

import jax.numpy as jnp
import numpy as np
import pytest

from maxgnr_jax import aggregators
from tests.helpers import inactive
from tests.helpers.examples import scanned

pytestmark = pytest.mark.usefixtures("quick_compilation")
# Losses, and the weights by `GO4ALIGN.get_weighted_loss` in methods/cluster_methods.py
# of the GitHub repository autumn9999/GO4Align, in float64, with the k-means of
# scikit-learn from 100 starts in the place of that on GPUs.
STEPS = np.array(
  [
    [0.9, 12.0, 0.03, 2.2, 1.4],
    [0.8, 9.0, 0.035, 2.0, 1.3],
    [0.75, 10.0, 0.02, 0.5, 1.1],
    [0.6, 7.0, 0.6, 1.9, 1.5],
  ]
)
AUTHORS = {
  (1, 1e-4): [[23.6100692] * 5, [16.40258307] * 5, [26.91006687] * 5, [2.16795326] * 5],
  (2, 0.1): [
    [2.15597168, 2.15597168, 141.43885103, 2.15597168, 2.15597168],
    [1.92739163, 1.92739163, 110.3096735, 1.92739163, 1.92739163],
    [2.8865289, 2.8865289, 196.04697842, 2.8865289, 2.8865289],
    [5.77123045, 0.92237371, 5.77123045, 0.92237371, 0.92237371],
  ],
  (3, 0.1): [
    [3.48229378, 0.82964958, 141.43885103, 0.82964958, 3.48229378],
    [3.1900226, 0.66476066, 110.3096735, 0.66476066, 3.1900226],
    [3.8427671, 0.0178142982, 196.046978, 3.8427671, 3.8427671],
    [5.77123045, 0.01324579, 5.77123045, 1.37693767, 1.37693767],
  ],
}


@pytest.mark.parametrize("arguments", AUTHORS)
def test_go4align_agrees_with_the_authors_code(arguments, float64):
  tx = aggregators.go4align(*arguments, num_tasks=5)
  weights, _, _ = scanned(tx, np.ones((len(STEPS), 5, 1)), losses=STEPS)
  np.testing.assert_allclose(weights, AUTHORS[arguments], rtol=1e-6)


def test_as_many_groups_as_tasks_give_each_task_its_indicator():
  tx = aggregators.go4align(7, 0.0, num_tasks=3)
  losses = jnp.array([1.0, 2.0, 9.0])
  _, state = tx.update(jnp.eye(3), tx.init(jnp.zeros(3)), losses=losses)
  np.testing.assert_allclose(state.weights, 12.0 / losses / 3, rtol=1e-6)


def test_a_loss_that_is_not_positive_has_no_weight_and_leaves_no_trace():
  losses = inactive.LOSSES.at[1:, 2].set(-1.0)
  masks = np.ones((inactive.NUM_STEPS, inactive.NUM_TASKS), bool)
  _, state = inactive.run(aggregators.go4align, masks, losses=losses)
  probabilities = state.memory["probabilities"]
  np.testing.assert_array_equal(probabilities[-1, 2], probabilities[0, 2])
  np.testing.assert_array_equal(state.weights[1:, 2], 0)
  np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
