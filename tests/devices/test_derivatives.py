"""Derivatives through updates on a mesh are those on one device."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from tests.devices import meshes
from tests.devices.meshes import SHAPES, make_mesh, put
from tests.helpers.examples import random_grads
from tests.helpers.marks import thorough_but
from tests.helpers.methods import METHODS

pytestmark = pytest.mark.usefixtures("quick_compilation", "float64")
# One array sharded over both axes, one over one axis, one replicated.
NAMES = ("both", "rows", "whole")
SPECS = {name: meshes.SPECS[name] for name in NAMES}
STACKED = {name: meshes.STACKED[name] for name in NAMES}


def two_updates(tx, params, first, second, **axes):
  """The sum of two updates; the second one depends on noise, if the method does."""
  before, state = tx.update(first, tx.init(params), params, **axes)
  after, _ = tx.update(second, state, params, **axes)
  return jax.tree.map(jnp.add, before, after)


def loss(updates, params, grads, scale):
  """A function of the updates for gradients of which one task's are scaled."""

  def scaled(x):
    return x * jnp.array([scale, 1.0, 1.0]).reshape(3, *(1,) * (x.ndim - 1))

  found = updates(params, *(jax.tree.map(scaled, x) for x in grads))
  return sum(jnp.sum(jnp.sin(3.0 * x)) for x in found.values())


@functools.cache
def slope(name):
  """The derivative at scale 1 on one device, by central differences."""
  params, grads = on_one_device()
  tx = METHODS[name].make(num_tasks=3)
  value = jax.jit(functools.partial(loss, functools.partial(two_updates, tx)))
  step = 1e-5
  ends = [value(params, grads, 1.0 + sign * step) for sign in (1, -1)]
  return float(ends[0] - ends[1]) / (2 * step)


def on_one_device():
  params = {name: jnp.ones(SHAPES[name], jnp.float64) for name in NAMES}
  scales = [1.0, 2.0, 3.0]
  return params, [random_grads(params, 3, seed, scales) for seed in range(2)]


@pytest.mark.parametrize(
  ("name", "how"),
  thorough_but(
    [("maxgnr", "shard_map"), ("mgda", AxisType.Auto)],
    [
      ("maxgnr", AxisType.Auto),
      ("maxgnr", AxisType.Explicit),
      ("maxgnr", "shard_map"),
      ("mgda", AxisType.Auto),
      ("mgda", AxisType.Explicit),
    ],
  ),
)
def test_the_derivative_on_a_mesh_is_that_of_differences_on_one_device(name, how):
  params, grads = on_one_device()
  updates = functools.partial(two_updates, METHODS[name].make(num_tasks=3))
  if how == "shard_map":
    updates = jax.shard_map(
      functools.partial(updates, axis_name=("data", "model")),
      mesh=make_mesh(),
      in_specs=(SPECS, STACKED, STACKED),
      out_specs=SPECS,
    )
  else:
    mesh = make_mesh(how)
    grads = [put(x, STACKED, mesh) for x in grads]
    params = put(params, SPECS, mesh)
  derivative = jax.jit(jax.grad(functools.partial(loss, updates), argnums=2))
  found = derivative(params, grads, 1.0)
  np.testing.assert_allclose(found, slope(name), rtol=1e-6)
