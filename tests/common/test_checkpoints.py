"""Training continues from states that orbax saved and restored."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from maxgnr_jax import maxgnr
from tests.helpers import commands
from tests.helpers.checkpoints import (
  BEFORE,
  NUM_TASKS,
  PARAMS,
  TRANSFORMATIONS,
  continued,
  follow,
  gradients,
  restore,
  save,
)
from tests.helpers.marks import thorough_but
from tests.helpers.methods import METHODS, make
from tests.helpers.trees import as_bytes, assert_same

# Optax's Adam mixes dtypes.
pytestmark = pytest.mark.usefixtures("standard_promotion", "quick_compilation")


@pytest.fixture(scope="module")
def saved(tmp_path_factory, quick_compilation):
  """A folder of checkpoints, and the results of training without interruption."""
  folder, results = tmp_path_factory.mktemp("checkpoints"), {}
  with jax.numpy_dtype_promotion("standard"):
    for name, make_one in TRANSFORMATIONS.items():
      tx = make_one()
      _, state = follow(tx, tx.init(PARAMS), PARAMS, gradients()[:BEFORE])
      save(folder / name, state)
      results[name] = follow(tx, state, PARAMS, gradients()[BEFORE:])
  return folder, results


@pytest.mark.parametrize(
  "name", thorough_but(["maxgnr_sketch", "pcgrad", "graddrop"], TRANSFORMATIONS)
)
def test_training_continues_bit_for_bit_after_a_restart(saved, name):
  folder, results = saved
  assert_same(continued(name, folder / name), results[name])


@pytest.mark.thorough
def test_training_continues_bit_for_bit_in_another_process(saved):
  folder, results = saved
  child = commands.run("-m", "tests.helpers.checkpoints", str(folder), timeout=300)
  assert child.returncode == 0, child.stdout + child.stderr
  for name, expected in results.items():
    found = np.load(folder / f"{name}.npz")
    for number, leaf in zip(found.files, as_bytes(expected), strict=True):
      np.testing.assert_array_equal(found[number], leaf, err_msg=f"{name}, {number}")


def test_states_of_all_methods_are_restored_unchanged(tmp_path):
  rng = np.random.default_rng(0)

  def numbers(x):  # most new states hold only zeros
    if jnp.issubdtype(x.dtype, jnp.floating):
      return jnp.asarray(rng.normal(size=x.shape), x.dtype)
    return x

  empty = {name: make(method, 3).init(PARAMS) for name, method in METHODS.items()}
  states = jax.tree.map(numbers, empty)
  save(tmp_path / "all", states)
  assert_same(restore(tmp_path / "all", empty), states)


def test_without_num_tasks_an_initial_state_cannot_be_saved(tmp_path):
  state = optax.chain(maxgnr(), optax.adam(0.1)).init(PARAMS)
  with pytest.raises(ValueError, match=r"zero size: .*momentum"):
    save(tmp_path / "new", state)


def test_a_state_saved_without_num_tasks_is_restored_with_num_tasks(tmp_path):
  tx = maxgnr()
  _, state = follow(tx, tx.init(PARAMS), PARAMS, gradients())
  save(tmp_path / "state", state)
  target = maxgnr(num_tasks=NUM_TASKS).init(PARAMS)
  assert_same(restore(tmp_path / "state", target), state)
