"""SDMGrad beside its formula in NumPy, step by step."""

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
def test_sdmgrad_descends_on_the_simplex_with_a_pull_to_the_mean(second, float64):
  others = JACOBIANS if second is None else second
  direction, rate, momentum, num_steps = 0.6, 0.2, 0.5, 4
  w, weights = EQUAL, []
  for grads, other in zip(JACOBIANS, others, strict=True):
    products = grads @ other.T
    # Gradients in units of their mean length, if both batches have it.
    products = products / np.mean(np.sqrt(np.maximum(np.diag(products), 0))) ** 2
    velocity = np.zeros(NUM_TASKS)
    for _ in range(num_steps):
      velocity = momentum * velocity + products @ (w + direction * EQUAL)
      w = projected(w - rate * velocity)
    weights.append((w + direction * EQUAL) / (1 + direction))
  updates = np.einsum("tk,tkd->td", weights, (JACOBIANS + others) / 2)
  tx = aggregators.sdmgrad(
    direction,
    learning_rate=rate,
    momentum=momentum,
    num_steps=num_steps,
    num_tasks=NUM_TASKS,
  )
  extra_args = {} if second is None else {"independent_grads": second}
  state = assert_steps(tx, weights, updates, **extra_args)
  np.testing.assert_allclose(state.memory["simplex_weights"], w, rtol=1e-8)
