"""DiBS-MTL against the authors' code and its definition."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maxgnr_jax.aggregators import dibs_mtl
from tests.aggregators.test_ntkmtl import JACOBIAN
from tests.helpers.examples import task_gradients

pytestmark = pytest.mark.usefixtures("quick_compilation")
# Sums of the weights of `DiBSMTL_Multi_Step.dibs_update` with a radius of 1, in
# mtl/methods/gradient_weight_methods.py of the GitHub repository suryakmurthy/dibs-mtl,
# in float64, for losses that are linear in the parameters. The last bargaining ends
# after its third step.
AUTHORS = {
  (0.01, 5): [0.02071027, 0.3976574, 0.00566363],
  (0.2, 5): [0.43585441, 8.16179297, 0.09034568],
  (0.3, 4): [0.38510026, 7.21659914, 0.08314992],
}


@pytest.mark.parametrize("arguments", AUTHORS)
def test_dibs_mtl_agrees_with_the_authors_code(arguments, float64):
  tx = dibs_mtl(*arguments, num_tasks=3)
  _, state = tx.update(jnp.asarray(JACOBIAN), tx.init(jnp.zeros(4)))
  np.testing.assert_allclose(state.weights, AUTHORS[arguments], rtol=1e-6)


def bargained(jacobian, step_size, num_steps):
  """The weights by the positions of the tasks in the space of the parameters."""
  norms = np.linalg.norm(jacobian, axis=1)
  units = jacobian / norms[:, None]
  place, pulls = np.zeros(jacobian.shape[1]), np.zeros(len(jacobian))
  for _ in range(num_steps):
    pull = step_size * np.linalg.norm(place + units, axis=1)
    place, pulls = place - pull @ units, pulls + pull
    if np.linalg.norm(place) > 1:
      break
  return pulls / norms


@given(seed=st.integers(0, 2**32 - 1), step_size=st.floats(0.01, 0.5))
def test_tasks_pull_in_proportion_to_their_distances(seed, step_size):
  jacobian = task_gradients(seed, 4)
  # Where a step ends on the edge of the ball, rounding decides.
  around = [bargained(jacobian, scale * step_size, 4) for scale in (0.9999, 1.0001)]
  tx = dibs_mtl(jnp.float32(step_size), 4, num_tasks=4)
  grads = jnp.asarray(jacobian, jnp.float32)
  _, state = tx.update(grads, tx.init(grads[0]))
  scale = np.linalg.norm(jacobian, axis=1)
  errors = [np.max(np.abs(state.weights - right) * scale) for right in around]
  assert min(errors) < 1e-3


def test_one_step_sums_the_unit_gradients():
  tx = dibs_mtl(0.5, 1, num_tasks=3)
  grads = jnp.asarray(JACOBIAN, jnp.float32)
  updates, _ = tx.update(grads, tx.init(grads[0]))
  units = JACOBIAN / np.linalg.norm(JACOBIAN, axis=1, keepdims=True)
  np.testing.assert_allclose(updates, 0.5 * units.sum(0), rtol=1e-5)
