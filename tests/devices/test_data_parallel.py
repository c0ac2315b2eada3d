"""Inside `jax.shard_map` losses are averaged over replicas before differentiation."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from maxgnr_jax import maxgnr, value_and_task_grads
from tests.devices.meshes import make_mesh
from tests.helpers.trees import assert_trees_close

pytestmark = pytest.mark.usefixtures("quick_compilation")
SPECS = {"trunk": P(None, "model"), "head": P("model")}


def losses(params, x):
  hidden = jnp.tanh(x @ params["trunk"])
  return {
    "head": jnp.mean(jnp.abs(hidden - 1.0) @ params["head"]),
    "size": jnp.mean(jnp.sum(hidden**2, axis=1)),
  }


def train(params, x, losses=losses, **axes):
  tx = optax.chain(maxgnr(num_tasks=2), optax.sgd(0.1))
  state = tx.init(params)
  for _ in range(3):
    _, grads = value_and_task_grads(losses)(params, x)
    updates, state = tx.update(grads, state, params, **axes)
    params = optax.apply_updates(params, updates)
  return params


def on_a_mesh(params, x):
  def over_all(params, x):
    values = jax.lax.psum(losses(params, x), "model")  # each device holds some neurons
    return jax.lax.pmean(values, "data")

  return train(params, x, over_all, axis_name="model")


def test_a_step_inside_shard_map_equals_one_device():
  rng = np.random.default_rng(0)
  drawn = rng.normal(size=(16, 6)), rng.normal(size=(6, 8))
  x, trunk = (jnp.asarray(a, jnp.float32) for a in drawn)
  params = {"trunk": trunk, "head": jnp.ones(8)}
  specs = {"in_specs": (SPECS, P("data")), "out_specs": SPECS}
  found = jax.jit(jax.shard_map(on_a_mesh, mesh=make_mesh(), **specs))(params, x)
  expected = jax.jit(train)(params, x)
  assert_trees_close(found, expected, rtol=1e-4, atol=1e-5)
