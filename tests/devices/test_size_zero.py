"""Arrays of size 0 may be sharded, alone in a group or beside others."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from maxgnr_jax import maxgnr
from tests.devices.meshes import make_mesh, put
from tests.helpers.examples import random_grads
from tests.helpers.trees import assert_trees_close

pytestmark = pytest.mark.usefixtures("quick_compilation")
SPECS = {"alone": P(None, "model"), "beside": P("data"), "rest": P("data", "model")}
STACKED = {name: P(None, *spec) for name, spec in SPECS.items()}
PARAMS = {
  "alone": jnp.ones((0, 8)),
  "beside": jnp.ones((4, 0)),
  "rest": jnp.ones((8, 4)),
}
TX = maxgnr(num_tasks=3, groups={"alone": "alone", "beside": "rest", "rest": "rest"})


def step(params, grads, **axes):
  updates, state = TX.update(grads, TX.init(params), params, **axes)
  return updates, state.weights


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit, AxisType.Manual])
def test_weights_and_updates_are_the_same_on_a_mesh(kind):
  grads = random_grads(PARAMS, 3)
  expected = jax.jit(step)(PARAMS, grads)
  if kind == AxisType.Manual:
    sharded = jax.shard_map(
      functools.partial(step, axis_name=("data", "model")),
      mesh=make_mesh(),
      in_specs=(SPECS, STACKED),
      out_specs=(SPECS, P()),
    )
    found = jax.jit(sharded)(PARAMS, grads)
  else:
    mesh = make_mesh(kind)
    found = jax.jit(step)(put(PARAMS, SPECS, mesh), put(grads, STACKED, mesh))
  assert_trees_close(found, expected, rtol=1e-4, atol=1e-5)
