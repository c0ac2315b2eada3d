"""ExcessMTL beside its formula in NumPy, step by step."""

import functools

import numpy as np
import pytest

from maxgnr_jax import aggregators
from tests.helpers import inactive
from tests.helpers.gradient_sequence import EQUAL, JACOBIANS, NUM_TASKS, assert_steps

pytestmark = pytest.mark.usefixtures("quick_compilation")


def test_excess_mtl_multiplies_weights_by_exponentials_of_excess_risks(float64):
  w, squares, weights = EQUAL, 0, []
  for step, grads in enumerate(JACOBIANS):
    squares = squares + grads**2
    # The diagonal of the Hessian as AdaGrad sees it: gᵀ H^-1 g.
    risks = np.sum(grads**2 / np.sqrt(squares), axis=1)
    if step == 0:
      first = risks
    else:
      w = w * np.exp(0.7 * risks / first)
      w = w / w.sum()
    weights.append(w)
  updates = np.einsum("tk,tkd->td", weights, JACOBIANS)
  assert_steps(aggregators.excess_mtl(0.7, num_tasks=NUM_TASKS), weights, updates)


def test_the_unit_of_a_late_tasks_risks_is_its_own_first_risk():
  make = functools.partial(aggregators.excess_mtl, 0.5)
  _, state = inactive.run(make, inactive.LATE)
  first = state.memory["first_risks"][:, 0]
  expected = np.abs(inactive.GRADS[2, 0]).sum()
  np.testing.assert_allclose(first[2:], expected, rtol=1e-5)
