"""The coordinate-wise trimmed mean against SciPy and NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from maxgnr_jax import aggregators
from tests.helpers import coordinates
from tests.helpers.examples import first_step, task_gradients
from tests.helpers.marks import thorough_but

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.mark.parametrize("trim", [0, 1, 2])
def test_trimmed_mean_agrees_with_scipy(trim):
  jacobian = task_gradients(0, 5)
  update, _ = first_step(aggregators.trimmed_mean(trim), jacobian)
  expected = scipy.stats.trim_mean(jacobian, (trim + 0.5) / 5, axis=0)
  np.testing.assert_allclose(update, expected, rtol=1e-5, atol=1e-6)


def test_trimmed_mean_of_three_tasks_is_the_median():
  jacobian = task_gradients(0, 3)
  update, state = first_step(aggregators.trimmed_mean(), jacobian)
  np.testing.assert_allclose(update, np.median(jacobian, axis=0), rtol=1e-6)
  assert state.weights is None


def trimmed(grads, trim):
  """Trims by NumPy as many values as leave at least one."""
  left_out = min(trim, (len(grads) - 1) // 2)
  ascending = np.sort(np.asarray(grads), axis=0)
  return ascending[left_out : len(grads) - left_out].mean(axis=0)


@pytest.mark.parametrize(
  ("num_tasks", "trim"), thorough_but([(5, 2)], [(5, 2), (8, 1), (17, 4)])
)
def test_trimmed_mean_of_the_active_tasks_agrees_with_numpy(num_tasks, trim):
  update = coordinates.update_of(
    functools.partial(aggregators.trimmed_mean, trim), num_tasks
  )
  grads = coordinates.gradients(num_tasks)
  for number in range(1, num_tasks + 1):
    mask = np.random.default_rng(number).permutation(num_tasks) < number
    found, state = update(jnp.where(mask[:, None], grads, np.nan), mask)
    expected = trimmed(grads[mask], trim)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert state.weights is None
    np.testing.assert_array_equal(state.task_count, mask)
    np.testing.assert_array_equal(state.notfinite_count, 0)
    if number <= 2 * trim + 1:
      median = np.median(grads[mask], axis=0)
      np.testing.assert_allclose(expected, median, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("value", coordinates.NOT_FINITE)
@pytest.mark.parametrize(("num_tasks", "trim"), [(1, 0), (5, 1), (17, 4)])
def test_trimmed_mean_excludes_and_counts_tasks_with_non_finite_gradients(
  num_tasks, trim, value
):
  update = coordinates.update_of(
    functools.partial(aggregators.trimmed_mean, trim), num_tasks
  )
  grads, all_tasks = coordinates.gradients(num_tasks), np.ones(num_tasks, bool)
  for task in {0, num_tasks // 2, num_tasks - 1}:
    found, state = update(grads.at[task, 3].set(value), all_tasks)
    others = np.arange(num_tasks) != task
    expected = trimmed(grads[others], trim) if num_tasks > 1 else 0
    np.testing.assert_allclose(
      found, np.broadcast_to(expected, coordinates.SIZE), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_array_equal(state.notfinite_count, ~others)


def test_too_few_tasks_raise_an_error_that_names_the_minimum():
  tx = aggregators.trimmed_mean()
  needed = r"at least 2 `trim` \+ 1 tasks, got 2 tasks with trim=1"
  with pytest.raises(ValueError, match=needed):
    jax.eval_shape(tx.update, jnp.ones((2, 4)), tx.init(jnp.ones(4)))
