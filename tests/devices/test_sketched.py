"""`maxgnr(sketch=...)` and methods of the Gramian compute the same on a mesh."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from maxgnr_jax import aggregators, maxgnr
from tests.devices.meshes import PARAMS, SPECS, STACKED, collectives, make_mesh, put
from tests.helpers.checkpoints import like, restore, save
from tests.helpers.examples import random_grads
from tests.helpers.trees import assert_trees_close

pytestmark = pytest.mark.usefixtures("quick_compilation")
SIZE, NUM_TASKS = 101, 3
SEQUENCE = [random_grads(PARAMS, NUM_TASKS, seed) for seed in range(4)]
TX = maxgnr(num_tasks=NUM_TASKS, sketch=SIZE)


def run(state, sequence, params, mesh=None):
  """The last update and state, and the collectives of a step."""
  step = jax.jit(TX.update)
  if mesh is not None:
    params = put(params, SPECS, mesh)
    sequence = [put(grads, STACKED, mesh) for grads in sequence]
  compiled = step.lower(sequence[0], state, params).compile()
  for grads in sequence:
    updates, state = step(grads, state, params)
  return updates, state, collectives(compiled)


def test_steps_on_meshes_equal_one_device_and_move_between_meshes(tmp_path):
  """From automatic axes to explicit ones, by a checkpoint. No gradient is gathered."""
  *expected, _ = run(TX.init(PARAMS), SEQUENCE, PARAMS)
  automatic, explicit = make_mesh(), make_mesh(AxisType.Explicit)
  start = TX.init(put(PARAMS, SPECS, automatic))
  _, state, found = run(start, SEQUENCE[:2], PARAMS, automatic)
  assert {kind for kind, _ in found} == {"all-reduce"}
  save(tmp_path / "state", state)
  target = TX.init(put(PARAMS, SPECS, explicit))
  state = restore(tmp_path / "state", like(target, explicit))
  updates, state, found = run(state, SEQUENCE[2:], PARAMS, explicit)
  assert {kind for kind, _ in found} == {"all-reduce"}
  assert_trees_close((updates, state), tuple(expected), rtol=1e-4, atol=1e-5)
  assert state.momentum.shape == (NUM_TASKS, SIZE)
  for name, spec in SPECS.items():
    assert updates[name].sharding.is_equivalent_to(
      jax.NamedSharding(explicit, spec), updates[name].ndim
    )


def test_inside_shard_map_with_axis_name_and_param_specs():
  by_parameter = aggregators.gradient_norm_scaling(
    num_tasks=NUM_TASKS, groups="parameter", sketch=SIZE
  )
  txs = {"maxgnr": TX, "by_parameter": by_parameter}

  def steps(params, *sequence, **axes):
    states, updates = {name: tx.init(params) for name, tx in txs.items()}, {}
    for grads in sequence:
      for name, tx in txs.items():
        updates[name], states[name] = tx.update(grads, states[name], params, **axes)
    return updates, {name: state.weights for name, state in states.items()}

  axes = {"axis_name": ("data", "model"), "param_specs": SPECS}
  sharded = jax.shard_map(
    functools.partial(steps, **axes),
    mesh=make_mesh(),
    in_specs=(SPECS, STACKED, STACKED),
    out_specs=(dict.fromkeys(txs, SPECS), P()),
  )
  found = jax.jit(sharded)(PARAMS, *SEQUENCE[:2])
  expected = jax.jit(steps)(PARAMS, *SEQUENCE[:2])
  assert_trees_close(found, expected, rtol=1e-4, atol=1e-5)


def test_inside_shard_map_without_param_specs_an_error_asks_for_them():
  def step(params, grads):
    axes = ("data", "model")
    return TX.update(grads, TX.init(params), params, axis_name=axes)[0]

  specs = {"in_specs": (SPECS, STACKED), "out_specs": SPECS}
  sharded = jax.shard_map(step, mesh=make_mesh(), **specs)
  with pytest.raises(ValueError, match="pass `param_specs=`"):
    jax.eval_shape(sharded, PARAMS, jax.tree.map(jnp.asarray, SEQUENCE[0]))
