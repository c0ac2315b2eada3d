"""Methods without `jax.jit` around them: compiled once, and fit to be pickled."""

import cloudpickle
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from maxgnr_jax import maxgnr
from tests.helpers.compilations import left_by
from tests.helpers.examples import follow, grads_sequence, random_grads
from tests.helpers.marks import thorough_but
from tests.helpers.methods import METHODS, with_task_values
from tests.helpers.trees import assert_trees_close, assert_trees_equal

pytestmark = pytest.mark.usefixtures("quick_compilation")
# Each takes seconds to compile.
USUAL = ("maxgnr", "mgda", "graddrop", "stch")
PARAMS = {"w": jnp.arange(1.0, 6.0), "b": jnp.ones((2, 2))}


def steps(tx, num_tasks, number=2):
  """The updates of some steps, and the last state."""
  state, history = tx.init(PARAMS), []
  for seed in range(number):
    updates, state = tx.update(random_grads(PARAMS, num_tasks, seed), state, PARAMS)
    history.append(updates)
  return history, state


@pytest.mark.parametrize("num_tasks", thorough_but([3], [3, 10]))
@pytest.mark.parametrize("name", thorough_but(USUAL, METHODS))
def test_nothing_is_compiled_after_two_steps_and_nothing_is_kept(name, num_tasks):
  if name in ("constant_weights", "ngdiff") and num_tasks == 10:
    pytest.skip("its arguments say how many tasks")
  tx = with_task_values(METHODS[name].make(num_tasks=num_tasks))
  _, state = steps(tx, num_tasks)
  grads = random_grads(PARAMS, num_tasks)
  assert left_by(lambda: tx.update(grads, state, PARAMS), 5) == (0, 0, 0)


def test_the_independent_gradients_of_two_batches_compile_nothing_either():
  tx = METHODS["sdmgrad"].make(num_tasks=3)
  state, grads = tx.init(PARAMS), random_grads(PARAMS, 3)

  def step():
    return tx.update(grads, state, PARAMS, independent_grads=grads)

  step()
  assert left_by(step, 5) == (0, 0, 0)


@pytest.mark.parametrize("name", thorough_but(USUAL, METHODS))
def test_a_pickled_method_gives_equal_updates(name):
  tx = METHODS[name].make(num_tasks=3)
  there = cloudpickle.loads(cloudpickle.dumps(tx))
  assert_trees_equal(steps(with_task_values(there), 3), steps(with_task_values(tx), 3))


@pytest.mark.usefixtures("standard_promotion")
def test_a_chain_that_has_been_used_can_be_pickled_with_its_state():
  tx = optax.chain(maxgnr(groups="parameter", noise_decay=0.9), optax.adam(0.1))
  _, state = steps(tx, 3)
  there, state_there = cloudpickle.loads(cloudpickle.dumps((tx, state)))
  grads = random_grads(PARAMS, 3, 7)
  assert_trees_equal(
    there.update(grads, state_there, PARAMS), tx.update(grads, state, PARAMS)
  )


@pytest.mark.usefixtures("standard_promotion")
def test_a_train_state_can_be_pickled():
  TrainState = pytest.importorskip("flax.training.train_state").TrainState
  tx = optax.chain(maxgnr(num_tasks=3), optax.sgd(0.1))
  state = TrainState.create(apply_fn=None, params=PARAMS, tx=tx)
  grads = random_grads(PARAMS, 3)
  there = cloudpickle.loads(cloudpickle.dumps(state))
  found, expected = (s.apply_gradients(grads=grads) for s in (there, state))
  assert_trees_equal(found.params, expected.params)
  np.testing.assert_array_equal(found.step, 1)


SCHEDULABLE = [name for name, method in METHODS.items() if method.schedulable]


@pytest.mark.parametrize("name", thorough_but(USUAL, SCHEDULABLE))
def test_a_schedule_compiles_nothing_after_two_steps(name):
  """`inject_hyperparams` makes a new transformation in every step."""
  method = METHODS[name]
  argument, default, other = method.schedulable
  numbers = jnp.linspace(default, other, 7)

  def schedule(count):
    return numbers[count]

  make = getattr(method.make, "func", method.make)
  arguments = getattr(method.make, "keywords", {}) | {"num_tasks": 3}
  static = [key for key in ("num_tasks", "solver", "key") if key in arguments]
  tx = optax.inject_hyperparams(make, static_args=static)
  tx = with_task_values(tx(**arguments, **{argument: schedule}))
  sequence = grads_sequence(PARAMS, 3, 5)
  expected = follow(tx, PARAMS, sequence)
  state = tx.init(PARAMS)
  for grads, (wanted, _) in zip(sequence, expected, strict=True):
    updates, state = tx.update(grads, state, PARAMS)
    assert_trees_close(updates, wanted, rtol=1e-4, atol=1e-6)
  assert left_by(lambda: tx.update(sequence[-1], state, PARAMS), 5) == (0, 0, 0)
