"""Absent tasks of methods that choose coordinate by coordinate."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maxgnr_jax import aggregators
from tests.examples import task_gradients

pytestmark = pytest.mark.usefixtures("quick_compilation")
SIZE = 40
NOT_FINITE = [np.nan, np.inf, -np.inf]


def gradients(num_tasks, seed=0):
  return jnp.asarray(task_gradients(seed, num_tasks, 1, SIZE), jnp.float32)


@functools.cache
def update_of(make, num_tasks):
  tx = make(num_tasks=num_tasks)

  @jax.jit
  def update(grads, mask):
    return tx.update(grads, tx.init(grads[0]), task_mask=mask)

  return update


LEAKS = {
  name: functools.partial(aggregators.graddrop, leak)
  for name, leak in {
    "none": 0.0,
    "half": 0.5,
    "all": 1.0,
  }.items()
}


@pytest.mark.parametrize("leak", LEAKS)
@pytest.mark.parametrize("value", NOT_FINITE)
def test_graddrop_drops_what_is_not_finite_not_unseen(leak, value):
  grads, everyone = gradients(5), np.ones(5, bool)
  mask = np.arange(5) != 2
  update = update_of(LEAKS[leak], 5)
  expected, _ = update(grads, mask)
  fewer, _ = update_of(LEAKS[leak], 4)(grads[mask], everyone[mask])
  np.testing.assert_allclose(expected, fewer, rtol=1e-5, atol=1e-6)
  for place in range(8):
    found, state = update(grads.at[2, place].set(value), everyone)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(state.notfinite_count, ~mask)
    np.testing.assert_allclose(state.weights, mask / 4)


@pytest.mark.parametrize("value", NOT_FINITE)
@pytest.mark.parametrize("noise", ["gaussian", "bernoulli"])
def test_dropout_drops_what_is_not_finite_not_unseen(noise, value):
  update = update_of(functools.partial(aggregators.gradient_dropout, 0.5, noise), 3)
  grads, mask = gradients(3), np.array([True, False, True])
  expected, _ = update(grads, mask)
  for place in range(8):
    found, state = update(grads.at[1, place].set(value), np.ones(3, bool))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(state.notfinite_count, ~mask)


def trimmed(grads, trim):
  """By NumPy: as many as leave at least one."""
  left_out = min(trim, (len(grads) - 1) // 2)
  ascending = np.sort(np.asarray(grads), axis=0)
  return ascending[left_out : len(grads) - left_out].mean(axis=0)


@pytest.mark.parametrize(("num_tasks", "trim"), [(5, 2), (8, 1), (17, 4)])
def test_the_trimmed_mean_is_of_those_that_are_present(num_tasks, trim):
  update = update_of(functools.partial(aggregators.trimmed_mean, trim), num_tasks)
  grads = gradients(num_tasks)
  for number in range(1, num_tasks + 1):
    mask = np.random.default_rng(number).permutation(num_tasks) < number
    found, state = update(jnp.where(mask[:, None], grads, np.nan), mask)
    expected = trimmed(grads[mask], trim)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(state.weights, mask / number, rtol=1e-6)
    np.testing.assert_array_equal(state.notfinite_count, 0)
    if number <= 2 * trim + 1:
      median = np.median(grads[mask], axis=0)
      np.testing.assert_allclose(expected, median, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("value", NOT_FINITE)
@pytest.mark.parametrize(("num_tasks", "trim"), [(1, 0), (5, 1), (17, 4)])
def test_the_trimmed_mean_leaves_nothing_out_unseen_that_is_not_finite(
  num_tasks, trim, value
):
  update = update_of(functools.partial(aggregators.trimmed_mean, trim), num_tasks)
  grads, everyone = gradients(num_tasks), np.ones(num_tasks, bool)
  for task in {0, num_tasks // 2, num_tasks - 1}:
    found, state = update(grads.at[task, 3].set(value), everyone)
    others = np.arange(num_tasks) != task
    expected = trimmed(grads[others], trim) if num_tasks > 1 else 0
    np.testing.assert_allclose(
      found, np.broadcast_to(expected, SIZE), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_array_equal(state.notfinite_count, ~others)
