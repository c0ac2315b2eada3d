"""MoDo beside its formula in NumPy, step by step."""

import numpy as np
import pytest

from maxgnr_jax import aggregators
from tests.helpers.gradient_sequence import (
  EQUAL,
  INDEPENDENT,
  JACOBIANS,
  NUM_TASKS,
  assert_steps,
  projected,
)

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.mark.parametrize("second", [INDEPENDENT, None], ids=["two batches", "one"])
@pytest.mark.parametrize(("gamma", "rho"), [(0.1, 0.1), (0.5, 0.0)])
def test_modo_steps_along_the_inner_products_of_two_batches(
  second, gamma, rho, float64
):
  others = JACOBIANS if second is None else second
  w, weights = EQUAL, []
  for grads, other in zip(JACOBIANS, others, strict=True):
    w = projected(w - gamma * (grads @ other.T @ w + rho * w))
    weights.append(w)
  updates = np.einsum("tk,tkd->td", weights, (JACOBIANS + others) / 2)
  extra_args = {} if second is None else {"independent_grads": second}
  tx = aggregators.modo(gamma, rho, num_tasks=NUM_TASKS)
  assert_steps(tx, weights, updates, **extra_args)
