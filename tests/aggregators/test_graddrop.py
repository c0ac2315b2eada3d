"""GradDrop keeps one sign per coordinate and lets a share of the rest leak."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maxgnr_jax import aggregators
from tests.helpers import coordinates
from tests.helpers.examples import task_gradients
from tests.helpers.random_draws import COLUMN, MANY, assert_share, update_of

pytestmark = pytest.mark.usefixtures("quick_compilation")


def test_graddrop_keeps_one_sign_in_every_coordinate():
  grads = task_gradients(0, 5, size=500)
  update = update_of(aggregators.graddrop(), jnp.asarray(grads, jnp.float32))
  positive = np.where(grads > 0, grads, 0).sum(0)
  negative = np.where(grads < 0, grads, 0).sum(0)
  np.testing.assert_allclose(
    update, np.where(update > 0, positive, negative), rtol=1e-5, atol=1e-5
  )
  contested = (positive > 0) & (negative < 0)
  assert 0.2 < np.mean(update[contested] > 0) < 0.8


def test_graddrop_keeps_the_positive_sign_with_its_share_as_probability():
  update = update_of(aggregators.graddrop(), MANY)
  assert set(update) == {3.5, -1.0}
  assert_share(update == 3.5, 0.5 * (1 + COLUMN.sum() / np.abs(COLUMN).sum()))


def test_graddrop_with_leak_one_is_the_sum():
  grads = task_gradients(0, 5, size=50)
  update = update_of(aggregators.graddrop(leak=1.0), jnp.asarray(grads, jnp.float32))
  np.testing.assert_allclose(update, grads.sum(0), rtol=1e-4, atol=1e-5)


def test_graddrop_leaks_per_task():
  leak = np.array([0.0, 0.5, 1.0])
  update = update_of(aggregators.graddrop(leak), MANY)
  # Either the positive values are kept and half of the second task's value leaks, or
  # the second task's value is kept and all of the third task's value leaks.
  assert set(update) == {3.5 - 0.5, -1.0 + 0.5}


@pytest.mark.parametrize("leak", [np.ones(1), np.ones(2), np.ones((3, 1))])
def test_graddrop_refuses_a_leak_for_another_number_of_tasks(leak):
  tx = aggregators.graddrop(leak)
  with pytest.raises(
    ValueError, match=r"`leak` must be a number or one per task, \[3\]"
  ):
    jax.eval_shape(tx.update, MANY, tx.init(MANY[0]))


def test_graddrop_can_be_created_inside_a_jitted_function():
  jax.eval_shape(lambda grads: aggregators.graddrop().init(grads[0]), MANY)


LEAKS = {
  name: functools.partial(aggregators.graddrop, leak)
  for name, leak in {
    "none": 0.0,
    "half": 0.5,
    "all": 1.0,
  }.items()
}


@pytest.mark.parametrize("leak", LEAKS)
@pytest.mark.parametrize("value", coordinates.NOT_FINITE)
def test_graddrop_excludes_and_counts_tasks_with_non_finite_gradients(leak, value):
  grads, all_tasks = coordinates.gradients(5), np.ones(5, bool)
  mask = np.arange(5) != 2
  update = coordinates.update_of(LEAKS[leak], 5)
  expected, _ = update(grads, mask)
  fewer, _ = coordinates.update_of(LEAKS[leak], 4)(grads[mask], all_tasks[mask])
  np.testing.assert_allclose(expected, fewer, rtol=1e-5, atol=1e-6)
  for place in range(8):
    found, state = update(grads.at[2, place].set(value), all_tasks)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(state.notfinite_count, ~mask)
    assert state.weights is None
    np.testing.assert_array_equal(state.task_count, mask)
