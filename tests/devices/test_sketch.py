"""Sketches of sharded gradients are those of whole gradients, and gather nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from maxgnr_jax._stacked import named_axes, sharded_over, sketch
from tests.devices.meshes import collectives, make_mesh, put
from tests.helpers.marks import thorough_but

SIZE, NUM_TASKS = 101, 3
SHAPES = {
  "both": (16, 8),
  "columns": (2, 250, 3),
  "gain": (),
  "inner": (5, 6, 16),
  "pair": (48, 7),
  "rows": (64, 3),
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


@pytest.mark.parametrize(
  "kind", thorough_but(["automatic"], ["automatic", "explicit", "named"])
)
def test_a_sketch_of_sharded_gradients_is_that_of_whole_ones(kind, expected):
  mesh = make_mesh(AxisType.Explicit if kind == "explicit" else AxisType.Auto)
  fun = in_shard_map(mesh) if kind == "named" else jax.jit(local_sketch)
  grads = put(gradients(), STACKED, mesh)
  compiled = fun.lower(grads).compile()
  np.testing.assert_allclose(compiled(grads), expected, atol=2e-5)
  found = collectives(compiled)
  assert {name for name, _ in found} == {"all-reduce"}
  if kind == "automatic":  # one for each sharded parameter and mesh axis
    assert all(number % (NUM_TASKS * SIZE) == 0 for _, number in found)
    assert sum(number for _, number in found) <= 12 * NUM_TASKS * SIZE
  else:
    assert found == [("all-reduce", NUM_TASKS * SIZE)]


@pytest.mark.thorough
def test_in_shard_map_sketches_of_replicas_differ_as_their_gradients_do(expected):
  """Data are sharded there, so that each device has gradients of its own."""
  mesh = jax.make_mesh((2,), ("data",), (AxisType.Auto,), devices=jax.devices()[:2])
  both = jax.tree.map(lambda x: jnp.stack([x, -2.0 * x]), gradients())

  def fun(grads):
    return local_sketch(jax.tree.map(lambda x: x[0], grads))[None]

  specs = P("data")
  mapped = jax.shard_map(fun, mesh=mesh, in_specs=specs, out_specs=specs)
  found = np.asarray(jax.jit(mapped)(both))
  np.testing.assert_allclose(found, np.stack([expected, -2 * expected]), atol=2e-5)


@pytest.mark.thorough
def test_one_task_at_a_time_on_automatic_axes(expected):
  """As inside of a backward pass."""
  grads = put(gradients(), STACKED, make_mesh())

  def one(grads):
    return local_sketch(jax.tree.map(lambda x: x[None], grads))[0]

  found = jax.jit(lambda grads: jax.lax.map(one, grads))(grads)
  np.testing.assert_allclose(found, expected, atol=2e-5)


def test_without_specs_shards_over_named_axes_raise_an_error():
  grads = put(gradients(), STACKED, make_mesh())
  with pytest.raises(ValueError, match="pass `param_specs=`"):
    in_shard_map(make_mesh(), specs=None)(grads)


def test_specs_that_do_not_fit_raise_an_error():
  grads = put(gradients(), STACKED, make_mesh())
  with pytest.raises(ValueError, match="must say over which axes"):
    in_shard_map(make_mesh(), specs=[P()] * len(SPECS))(grads)
