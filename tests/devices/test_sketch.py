"""Sketches of sharded gradients are those of whole gradients, and gather nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from maxgnr_jax._stacked import named_axes, sharded_over, sketch
from tests.devices.meshes import collectives, make_mesh, put

SIZE, NUM_TASKS = 101, 3
SHAPES = {
  "both": (16, 8),
  "columns": (6, 250, 8),
  "gain": (),
  "inner": (5, 6, 16),
  "pair": (48, 7),
  "rows": (64, 33),
  "single": (1, 40),
  "twisted": (3, 4, 6, 8),
  "vector": (4,),
  "whole": (7, 50),
}
SPECS = {
  "both": P("data", "model"),
  "columns": P(None, "model"),
  "gain": P(),
  "inner": P(None, None, "data"),
  "pair": P(("model", "data")),
  "rows": P("data"),
  "single": P(None, ("data", "model")),
  "twisted": P(None, "data", "model"),
  "vector": P("model"),
  "whole": P(),
}
STACKED = {name: P(None, *spec) for name, spec in SPECS.items()}
SPEC_LIST = [SPECS[name] for name in sorted(SPECS)]


def gradients(dtype=jnp.float32):
  rng = np.random.default_rng(0)
  return {
    name: jnp.asarray(rng.standard_normal((NUM_TASKS, *shape)), dtype)
    for name, shape in SHAPES.items()
  }


def local_sketch(grads, size=SIZE):
  return sketch(grads, size, jnp.float32)


@pytest.fixture(scope="module")
def expected():
  """Sketches of whole gradients, which a single device holds inside `shard_map`."""
  mesh = jax.make_mesh((1,), ("one",), devices=jax.devices()[:1])
  whole = jax.shard_map(local_sketch, mesh=mesh, in_specs=P(), out_specs=P())
  return np.asarray(jax.jit(whole)(gradients()))


def in_shard_map(mesh, axis_names=("data", "model"), specs=SPEC_LIST):
  def fun(grads):
    with sharded_over(named_axes(axis_names, grads)):
      return sketch(grads, SIZE, jnp.float32, specs)

  return jax.jit(jax.shard_map(fun, mesh=mesh, in_specs=(STACKED,), out_specs=P()))


@pytest.mark.parametrize("kind", ["automatic", "explicit", "named"])
def test_a_sketch_of_sharded_gradients_is_that_of_whole_ones(kind, expected):
  mesh = make_mesh(AxisType.Explicit if kind == "explicit" else AxisType.Auto)
  fun = in_shard_map(mesh) if kind == "named" else jax.jit(local_sketch)
  grads = put(gradients(), STACKED, mesh)
  compiled = fun.lower(grads).compile()
  np.testing.assert_allclose(compiled(grads), expected, atol=2e-5)
  found = collectives(compiled)
  print(kind, found)
  assert {name for name, _ in found} == {"all-reduce"}
