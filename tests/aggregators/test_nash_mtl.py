"""Nash-MTL against its definition."""

import chex
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.examples import relative_error, task_gradients
from tests.helpers.weights import weigh

pytestmark = pytest.mark.usefixtures("quick_compilation")
seeds = st.integers(0, 2**32 - 1)
sizes = st.sampled_from([2, 5])  # few, because each is compiled


def unfairness(jacobian, weights, alpha):
  """The largest relative error in ``G w = w^(-1/α)``."""
  assert weights.min() > 0
  return np.abs(jacobian @ (weights @ jacobian) * weights ** (1 / alpha) - 1).max()


@given(seed=seeds, num_tasks=sizes)
def test_nash_mtl_gives_every_task_a_gain_inverse_to_its_weight(seed, num_tasks):
  jacobian = task_gradients(seed, num_tasks)
  weights = weigh("nash_mtl", jacobian)
  assert unfairness(jacobian, weights, 1.0) < 1e-3
  length = np.linalg.norm(weights @ jacobian)
  assert length == pytest.approx(np.sqrt(num_tasks), rel=1e-3)


@given(seed=seeds, num_tasks=sizes, decades=st.integers(-5, 5))
def test_nash_mtl_update_does_not_depend_on_the_scale_of_a_loss(
  seed, num_tasks, decades
):
  jacobian = task_gradients(seed, num_tasks)
  scaled = jacobian * np.append(10.0**decades, np.ones(num_tasks - 1))[:, None]
  update = weigh("nash_mtl", jacobian) @ jacobian
  assert relative_error(weigh("nash_mtl", scaled) @ scaled, update) < 1e-3


def test_nash_mtl_weights_are_finite_when_gradients_cancel():
  # Three gradients in a plane with a positive combination that is zero.
  for seed in (239, 342, 357, 520, 775, 902):
    chex.assert_tree_all_finite(weigh("nash_mtl", task_gradients(seed, 3, size=2)))
