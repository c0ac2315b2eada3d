"""Weightings treat the active tasks as if there were no others."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maxgnr_jax import aggregators
from tests.helpers.examples import task_gradients
from tests.helpers.weights import some_tasks, weigh_active

pytestmark = pytest.mark.usefixtures("quick_compilation")
seeds = st.integers(0, 2**32 - 1)
# Few numbers of tasks and of active tasks, because each is compiled.
sizes, numbers = st.just(6), st.sampled_from([1, 4])
ARGUMENTS = {"cagrad": {"c": 0.5}, "conicgrad": {"c": 0.5}, "fairgrad": {"alpha": 2.0}}
# With a zero gradient many updates are equally good, so that weights are arbitrary.
UNDETERMINED_BY_ZERO = ("cagrad", "conicgrad")
NAMES = (
  "aligned_mtl",
  "cagrad",
  "config",
  "conicgrad",
  "dibs_mtl",
  "dualproj",
  "fairgrad",
  "gradient_norm_scaling",
  "imtl_g",
  "mgda",
  "nash_mtl",
  "ntkmtl",
  "upgrad",
)


@pytest.mark.parametrize("name", NAMES)
@given(
  seed=seeds,
  num_tasks=sizes,
  number=numbers,
  exponent=st.integers(-6, 6),
  zero=st.booleans(),
)
def test_weights_are_those_of_the_active_tasks_alone(
  name, seed, num_tasks, number, exponent, zero
):
  jacobian = task_gradients(seed, num_tasks) * 10.0**exponent
  active = some_tasks(seed, num_tasks, number)
  if zero and name not in UNDETERMINED_BY_ZERO:  # the first active task has no gradient
    jacobian[np.argmax(active)] = 0
  arguments = ARGUMENTS.get(name, {})
  weights = weigh_active(name, jacobian, active, **arguments)
  alone = weigh_active(name, jacobian[active], np.ones(number, bool), **arguments)
  np.testing.assert_array_equal(weights[~active], 0)
  # Short gradients get large weights with large absolute errors.
  norm = np.linalg.norm(jacobian[active], axis=1)
  norm = np.where(norm > 0, norm, 1.0)
  np.testing.assert_allclose(
    weights[active] * norm,
    alone * norm,
    rtol=0,
    atol=1e-3 * np.abs(alone * norm).max(),
  )


@pytest.mark.parametrize("name", NAMES)
def test_entries_of_the_gramian_for_inactive_tasks_are_ignored(name):
  jacobian = task_gradients(0, 4)
  active = np.array([True, False, True, True])
  arguments = ARGUMENTS.get(name, {})
  expected = weigh_active(name, jacobian, active, **arguments)
  jacobian[1] = np.nan
  found = weigh_active(name, jacobian, active, **arguments)
  np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("make", [aggregators.pcgrad, aggregators.gradvac])
def test_two_active_tasks_of_a_random_order_method_are_as_if_alone(make):
  active = np.array([False, True, False, True, False])
  mask = jnp.asarray(active)
  some, two = make(num_tasks=5), make(num_tasks=2)
  step = jax.jit(lambda grads, state: some.update(grads, state, task_mask=mask))
  right_step = jax.jit(lambda grads, state: two.update(grads, state))
  state, right_state = some.init(jnp.zeros(10)), two.init(jnp.zeros(10))
  for seed in range(5):
    grads = jnp.asarray(task_gradients(seed, 5), jnp.float32)
    updates, state = step(grads, state)
    expected, right_state = right_step(grads[mask], right_state)
    np.testing.assert_allclose(updates, expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(
      state.weights[mask], right_state.weights, rtol=1e-3, atol=1e-4
    )
