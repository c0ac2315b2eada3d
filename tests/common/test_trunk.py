"""Methods with memory measure the trunk and weight the heads."""

import jax.numpy as jnp
import numpy as np
import pytest

from maxgnr_jax import aggregators
from tests.helpers.gradient_sequence import (
  INDEPENDENT,
  JACOBIANS,
  LOSSES,
  NUM_TASKS,
  SIZE,
)

pytestmark = pytest.mark.usefixtures("quick_compilation")
SHARED = {
  "db_mtl": aggregators.db_mtl,
  "excess_mtl": lambda **kwargs: aggregators.excess_mtl(0.7, **kwargs),
  "moco": aggregators.moco,
  "modo": aggregators.modo,
  "sdmgrad": aggregators.sdmgrad,
}


@pytest.mark.parametrize("name", SHARED)
def test_the_trunk_is_measured_and_the_heads_get_the_weighted_gradient(name):
  def split(jacobian):
    return {
      "trunk": jnp.asarray(jacobian, jnp.float32),
      "head": 100 * jnp.asarray(jacobian[..., :2], jnp.float32),
    }

  shared = {"trunk": True, "head": False}
  partly = SHARED[name](num_tasks=NUM_TASKS, shared=shared)
  alone = SHARED[name](num_tasks=NUM_TASKS)
  params = {"trunk": jnp.zeros(SIZE), "head": jnp.zeros(2)}
  state, state_alone = partly.init(params), alone.init(params["trunk"])
  for step in range(3):
    grads, others = split(JACOBIANS[step]), split(INDEPENDENT[step])
    losses = jnp.asarray(LOSSES[step], jnp.float32)
    updates, state = partly.update(
      grads, state, params, losses=losses, independent_grads=others
    )
    expected, state_alone = alone.update(
      grads["trunk"], state_alone, losses=losses, independent_grads=others["trunk"]
    )
    if name == "db_mtl":
      weights = 1 / losses  # heads get the gradients of the losses' logarithms
    elif name == "moco":
      weights = state.memory["simplex_weights"]
      alone_weights = state_alone.memory["simplex_weights"]
      np.testing.assert_allclose(weights, alone_weights, rtol=1e-5)
    else:
      weights = state.weights
      np.testing.assert_allclose(weights, state_alone.weights, rtol=1e-5)
    np.testing.assert_allclose(updates["trunk"], expected, rtol=1e-5, atol=1e-6)
    head = grads["head"]
    if name in ("modo", "sdmgrad"):
      head = (head + others["head"]) / 2
    expected = np.asarray(weights) @ np.asarray(head)
    np.testing.assert_allclose(updates["head"], expected, rtol=1e-4, atol=1e-3)
