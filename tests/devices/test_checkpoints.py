"""States move between one device and eight, with the requested sharding."""

import jax
import pytest
from jax.sharding import AxisType

from tests.devices.meshes import PARAMS, SPECS, STACKED, make_mesh, put
from tests.helpers.checkpoints import (
  AFTER,
  BEFORE,
  NUM_TASKS,
  TRANSFORMATIONS,
  follow,
  like,
  restore,
  save,
)
from tests.helpers.examples import grads_sequence
from tests.helpers.trees import assert_trees_close

pytestmark = pytest.mark.usefixtures("standard_promotion", "quick_compilation")
SEQUENCE = grads_sequence(PARAMS, NUM_TASKS, BEFORE + AFTER)


def place(mesh):
  """Parameters and gradients on a mesh, or on one device without."""
  if mesh is None:
    return PARAMS, SEQUENCE
  return put(PARAMS, SPECS, mesh), [put(grads, STACKED, mesh) for grads in SEQUENCE]


def interrupted(name, before, after, path):
  """Continues on another mesh and compares with continuing on the first one.

  Returns the restored state.
  """
  tx = TRANSFORMATIONS[name]()
  params, sequence = place(before)
  _, state = follow(tx, tx.init(params), params, sequence[:BEFORE])
  save(path, state)
  expected = follow(tx, state, params, sequence[BEFORE:])
  params, sequence = place(after)
  target = tx.init(params) if after is None else like(tx.init(params), after)
  restored = restore(path, target)
  for x, wanted in zip(jax.tree.leaves(restored), jax.tree.leaves(target), strict=True):
    assert x.sharding.is_equivalent_to(wanted.sharding, x.ndim)
  found = follow(tx, restored, params, sequence[BEFORE:])
  assert_trees_close(found, expected, rtol=1e-4, atol=1e-5)
  return restored


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["graddrop"])
def test_a_state_moves_from_one_device_to_eight_and_back(name, tmp_path):
  interrupted(name, None, make_mesh(), tmp_path / "to_eight")
  interrupted(name, make_mesh(), None, tmp_path / "to_one")


def test_a_state_restored_on_another_mesh_has_the_requested_sharding(tmp_path):
  explicit = make_mesh(AxisType.Explicit)
  state = interrupted("maxgnr", make_mesh(), explicit, tmp_path / "state")[0]
  for name in ("both", "rows", "vector"):
    assert state.momentum[name].sharding.spec == STACKED[name]
  assert state.weights.sharding.is_fully_replicated
  assert len(state.weights.sharding.device_set) == 8
