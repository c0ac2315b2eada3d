"""FairGrad against its definition."""

import jax.numpy as jnp
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


@given(seed=seeds, num_tasks=sizes, alpha=st.sampled_from([0.5, 1.0, 2.0, 5.0]))
def test_fairgrad_solves_the_alpha_fairness_equation(seed, num_tasks, alpha):
  jacobian = task_gradients(seed, num_tasks)
  weights = weigh("fairgrad", jacobian, jnp.float32(alpha))
  assert unfairness(jacobian, weights, alpha) < 1e-3


@given(seed=seeds, num_tasks=sizes)
def test_fairgrad_with_alpha_one_is_nash_mtl(seed, num_tasks):
  jacobian = task_gradients(seed, num_tasks)
  expected = weigh("nash_mtl", jacobian)
  weights = weigh("fairgrad", jacobian, jnp.float32(1.0))
  np.testing.assert_allclose(weights, expected, rtol=1e-4)


def test_fairgrad_in_float32_agrees_with_float64_for_a_large_alpha(float64):
  for seed in range(20):
    jacobian = task_gradients(seed, 5)
    solution = weigh("fairgrad", jacobian, 10.0, dtype=jnp.float64)
    assert unfairness(jacobian, solution, 10.0) < 1e-9
    weights = weigh("fairgrad", jacobian, jnp.float32(10.0))
    assert relative_error(weights @ jacobian, solution @ jacobian) < 1e-4
