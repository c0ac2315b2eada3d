"""Methods compute the same on a mesh as on one device."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from maxgnr_jax import maxgnr, value_and_task_grads
from tests.devices.meshes import PARAMS, SHAPES, SPECS, STACKED, make_mesh, put
from tests.helpers.examples import random_grads
from tests.helpers.marks import thorough_but
from tests.helpers.methods import METHODS, make
from tests.helpers.trees import assert_trees_close

pytestmark = pytest.mark.usefixtures("quick_compilation")
STEPS = 2
KINDS = pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])


def run(tx, params, sequence):
  """The last update and state of jitted steps."""
  step = jax.jit(lambda grads, state, params: tx.update(grads, state, params))
  state = tx.init(params)
  for grads in sequence:
    updates, state = step(grads, state, params)
  return updates, state


def compare(tx, num_tasks, mesh, rtol=1e-4, atol=1e-5):
  sequence = [random_grads(PARAMS, num_tasks, seed) for seed in range(STEPS)]
  expected = run(tx, PARAMS, sequence)
  sharded = [put(grads, STACKED, mesh) for grads in sequence]
  found = run(tx, put(PARAMS, SPECS, mesh), sharded)
  assert_trees_close(found, expected, rtol=rtol, atol=atol)
  return found


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["graddrop", "moco"])
def test_aggregators_are_the_same_on_a_mesh(name):
  compare(make(METHODS[name], 3), 3, make_mesh())


@pytest.mark.parametrize(
  "kind", thorough_but([AxisType.Auto], [AxisType.Auto, AxisType.Explicit])
)
@pytest.mark.parametrize("num_tasks", [10])
def test_maxgnr_is_the_same_on_a_mesh_and_keeps_shardings(num_tasks, kind):
  mesh = make_mesh(kind)
  updates, state = compare(maxgnr(num_tasks=num_tasks), num_tasks, mesh)
  for name in ("both", "rows", "vector"):
    assert updates[name].sharding.spec == SPECS[name]
    assert state.momentum[name].sharding.spec == STACKED[name]
  assert state.weights.sharding.is_fully_replicated


@pytest.mark.thorough
def test_a_vmapped_update_is_the_same_on_a_mesh():
  tx, mesh = maxgnr(num_tasks=2), make_mesh()
  several = [random_grads(PARAMS, 2, seed) for seed in range(2)]
  grads = jax.tree.map(lambda *x: jnp.stack(x), *several)
  sharded = put(grads, {k: P(None, *spec) for k, spec in STACKED.items()}, mesh)
  found, _ = jax.jit(jax.vmap(tx.update, (0, None)))(sharded, tx.init(PARAMS))
  for i, one in enumerate(several):
    expected, _ = jax.jit(tx.update)(one, tx.init(PARAMS))
    mapped = jax.tree.map(lambda x, i=i: x[i], found)
    assert_trees_close(mapped, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.thorough
def test_a_shard_map_over_some_axes_leaves_the_others_to_the_compiler():
  tx, mesh = maxgnr(num_tasks=3), make_mesh()

  def step(params, grads, **axes):
    return tx.update(grads, tx.init(params), params, **axes)[0]

  specs = {k: P("data") if k == "both" else P() for k in SPECS}
  stacked = {k: P(None, *spec) for k, spec in specs.items()}
  partly = jax.shard_map(
    functools.partial(step, axis_name="data"),
    mesh=mesh,
    in_specs=(specs, stacked),
    out_specs=specs,
    axis_names={"data"},
  )
  grads = random_grads(PARAMS, 3)
  placed = put(PARAMS, SPECS, mesh), put(grads, STACKED, mesh)
  compiled = jax.jit(partly).lower(*placed).compile()
  expected = jax.jit(step)(PARAMS, grads)
  assert_trees_close(compiled(*placed), expected, rtol=1e-4, atol=1e-5)


@KINDS
def test_the_initial_momentum_has_the_sharding_of_its_parameter(kind):
  state = maxgnr(num_tasks=3).init(put(PARAMS, SPECS, make_mesh(kind)))
  for name in ("both", "rows", "vector"):
    assert state.momentum[name].sharding.spec == STACKED[name]


def losses(params, x):
  hidden = jnp.tanh(x @ params["both"])
  return {
    "sum": jnp.mean((hidden @ params["rows"].T) ** 2),
    "size": jnp.mean(jnp.abs(hidden) * params["gain"] - 0.5) ** 2,
    "rest": jnp.sum(params["vector"] ** 2) + jnp.sum(params["whole"] ** 2),
  }


def test_a_data_parallel_step_equals_one_device():
  """Gradients are averaged over the batch before they are weighted."""
  mesh, tx = make_mesh(), optax.chain(maxgnr(num_tasks=3), optax.sgd(0.1))
  x = jnp.asarray(np.random.default_rng(0).normal(size=(32, 16)), jnp.float32)

  @jax.jit
  def step(params, state, x):
    _, grads = value_and_task_grads(losses)(params, x)
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state

  def train(params, x):
    state = tx.init(params)
    for _ in range(STEPS):
      params, state = step(params, state, x)
    return params, state

  expected = train(PARAMS, x)
  batch = put({"x": x}, {"x": P("data")}, mesh)["x"]
  for specs in (SPECS, dict.fromkeys(SHAPES, P())):
    found = train(put(PARAMS, specs, mesh), batch)
    assert_trees_close(found, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
  "name", thorough_but(["maxgnr", "mgda"], ["maxgnr", "mgda", "equal_weights"])
)
def test_a_method_inside_shard_map_with_axis_name_equals_one_device(name):
  tx = METHODS[name].make(num_tasks=3)
  extra = {"losses": jnp.array([1.0, 2.0, 3.0])}

  def steps(params, *sequence, **axes):
    state = tx.init(params)
    for grads in sequence:
      updates, state = tx.update(grads, state, params, **extra, **axes)
    return updates, state.weights

  sequence = [random_grads(PARAMS, 3, seed) for seed in range(2)]
  sharded = jax.shard_map(
    functools.partial(steps, axis_name=("data", "model")),
    mesh=make_mesh(),
    in_specs=(SPECS, STACKED, STACKED),
    out_specs=(SPECS, P()),
  )
  found = jax.jit(sharded)(PARAMS, *sequence)
  expected = jax.jit(steps)(PARAMS, *sequence)
  assert_trees_close(found, expected, rtol=1e-4, atol=1e-5)


def update_with(axis_name, **kwargs):
  tx = maxgnr(num_tasks=3)

  def step(params, grads):
    return tx.update(grads, tx.init(params), params, axis_name=axis_name)[0]

  specs = {"in_specs": (SPECS, STACKED), "out_specs": SPECS}
  sharded = jax.shard_map(step, mesh=make_mesh(), **specs, **kwargs)
  return jax.jit(sharded)(PARAMS, random_grads(PARAMS, 3))


def test_a_wrong_axis_name_raises_an_error_that_lists_the_axes():
  with pytest.raises(ValueError, match=r"'rows' where there are .*data"):
    update_with("rows")


def test_shard_map_without_check_vma_is_refused():
  with pytest.raises(ValueError, match=r"leave `check_vma` of `jax\.shard_map` on"):
    update_with("data", check_vma=False)
