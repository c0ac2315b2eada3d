"""The combined gradient by passes is the same where parameters are sharded."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType

from maxgnr_jax import aggregators, maxgnr, value_and_combined_grad
from tests.devices.meshes import PARAMS, SPECS, collectives, make_mesh, put
from tests.helpers.trees import assert_trees_close

pytestmark = pytest.mark.usefixtures("quick_compilation")
TASKS = 3


def losses(params, x):
  hidden = jnp.tanh(params["both"] @ x) * params["gain"]
  features = params["rows"] @ hidden
  total = jnp.sum(params["vector"]) + jnp.sum(params["whole"] ** 2)
  return [jnp.mean((features - k) ** 2) + 0.1 * k * total for k in range(TASKS)]


@pytest.mark.thorough
@pytest.mark.parametrize(
  "aggregator",
  [
    maxgnr(num_tasks=TASKS, sketch=101),
    pytest.param(aggregators.mgda(num_tasks=TASKS), marks=pytest.mark.thorough),
    pytest.param(aggregators.gls(num_tasks=TASKS), marks=pytest.mark.thorough),
  ],
)
def test_gradients_and_states_equal_those_of_one_device(aggregator):
  params = {**PARAMS, "both": PARAMS["both"][:8], "gain": jnp.float32(0.5)}
  params["rows"] = params["rows"] / 4
  x = jnp.linspace(-1.0, 1.0, 8)
  combined = value_and_combined_grad(losses, aggregator)
  step = jax.jit(combined.value_and_grad)

  def walk(params):
    state = combined.init(params)
    compiled = step.lower(state, params, x).compile()
    for factor in (1.0, -0.5):
      _, grad, state = step(state, params, x * factor)
    return (grad, state), collectives(compiled)

  expected, _ = walk(params)
  found, kinds = walk(put(params, SPECS, make_mesh(AxisType.Auto)))
  assert_trees_close(found, expected, rtol=1e-4, atol=1e-5)
  gathered = sum(n for kind, n in kinds if kind != "all-reduce")
  assert gathered < params["both"].size  # activations may be, but no gradient
