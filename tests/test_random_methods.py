"""Methods that draw numbers: their distributions, and the seeds they are drawn from."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maxgnr_jax import aggregators
from tests.examples import task_gradients

pytestmark = pytest.mark.usefixtures("quick_compilation")
SIZE = 20_000
# Per task one number, the same for all parameters: each of these is drawn for anew.
COLUMN = np.array([3.0, -1.0, 0.5])
MANY = jnp.asarray(np.tile(COLUMN[:, None], SIZE), jnp.float32)


def update_of(tx, grads):
  updates, _ = jax.jit(tx.update)(grads, tx.init(grads[0]))
  return np.asarray(updates, np.float64)


def assert_share(hits, probability):
  """Binomial: within five standard deviations."""
  deviation = np.sqrt(probability * (1 - probability) / hits.size)
  assert abs(hits.mean() - probability) < 5 * deviation


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


def test_graddrop_keeps_positive_values_as_often_as_their_share_says():
  update = update_of(aggregators.graddrop(), MANY)
  assert set(update) == {3.5, -1.0}
  assert_share(update == 3.5, 0.5 * (1 + COLUMN.sum() / np.abs(COLUMN).sum()))


def test_graddrop_that_leaks_all_is_the_sum():
  grads = task_gradients(0, 5, size=50)
  update = update_of(aggregators.graddrop(leak=1.0), jnp.asarray(grads, jnp.float32))
  np.testing.assert_allclose(update, grads.sum(0), rtol=1e-4, atol=1e-5)


def test_graddrop_leaks_what_each_tasks_share_says():
  leak = np.array([0.0, 0.5, 1.0])
  update = update_of(aggregators.graddrop(leak), MANY)
  # Kept: the positive two, and half of the other; or that one, and all of the third.
  assert set(update) == {3.5 - 0.5, -1.0 + 0.5}


@pytest.mark.parametrize("leak", [np.ones(1), np.ones(2), np.ones((3, 1))])
def test_a_leak_of_other_tasks_is_refused(leak):
  tx = aggregators.graddrop(leak)
  with pytest.raises(
    ValueError, match=r"`leak` must be a number or one per task, \[3\]"
  ):
    jax.eval_shape(tx.update, MANY, tx.init(MANY[0]))


def test_graddrop_may_be_made_in_a_compiled_function():
  jax.eval_shape(lambda grads: aggregators.graddrop().init(grads[0]), MANY)


def noise_on(grads, *args):
  """What the only task's gradient was multiplied by."""
  return update_of(aggregators.gradient_dropout(*args), grads[:1]) / grads[0]


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_gaussian_dropout_has_mean_one_and_the_variance_of_dropout(rate):
  factor = noise_on(MANY, rate)
  variance = rate / (1 - rate)
  assert abs(factor.mean() - 1) < 5 * np.sqrt(variance / SIZE)
  assert abs(factor.var() / variance - 1) < 5 * np.sqrt(2 / SIZE)
  # Normal: a third is beyond one standard deviation.
  assert_share(np.abs(factor - 1) > np.sqrt(variance), 0.3173)


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_bernoulli_dropout_drops_or_makes_up_for_it(rate):
  factor = noise_on(MANY, rate, "bernoulli")
  np.testing.assert_allclose(np.unique(factor), [0, 1 / (1 - rate)], rtol=1e-6)
  assert_share(factor == 0, rate)


def test_dropout_draws_for_every_task():
  update = update_of(aggregators.gradient_dropout(0.5, "bernoulli"), MANY)
  assert len(np.unique(update)) == 2**3


@pytest.mark.parametrize("noise", ["gaussian", "bernoulli"])
def test_dropout_at_rate_zero_is_the_mean(noise):
  update = update_of(aggregators.gradient_dropout(0.0, noise), MANY)
  np.testing.assert_allclose(update, COLUMN.mean(), rtol=1e-6)


def test_random_weights_are_a_softmax_of_normal_numbers():
  tx, steps = aggregators.random_weights(num_tasks=3), 2000

  def step(state, _):
    _, state = tx.update(jnp.ones((3, 1)), state)
    return state, state.weights

  _, weights = jax.lax.scan(step, tx.init(jnp.ones(1)), length=steps)
  weights = np.asarray(weights, np.float64)
  np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-5)
  # Differences of two normal numbers, which are normal of variance 2.
  ratios = np.log(weights[:, 0] / weights[:, 1])
  assert abs(ratios.mean()) < 5 * np.sqrt(2 / steps)
  assert abs(ratios.var() / 2 - 1) < 5 * np.sqrt(2 / steps)
  assert abs(np.corrcoef(ratios[1:], ratios[:-1])[0, 1]) < 5 / np.sqrt(steps)
  assert len(np.unique(weights[:, 0])) == steps


SEEDED = ("graddrop", "gradient_dropout", "gradvac", "pcgrad", "random_weights")


@functools.cache
def three_steps(name):
  """From a state to the updates for the same gradients three times."""
  tx = getattr(aggregators, name)(num_tasks=5)
  grads = jnp.asarray(task_gradients(0, 5), jnp.float32)

  def step(state, _):
    updates, state = tx.update(grads, state)
    return state, updates

  return jax.jit(lambda state: jax.lax.scan(step, state, length=3)[1])


def followed(name, seed):
  tx = getattr(aggregators, name)(num_tasks=5, seed=seed)
  return np.asarray(three_steps(name)(tx.init(jnp.zeros(10))))


@pytest.mark.parametrize("name", SEEDED)
def test_what_is_drawn_differs_from_step_to_step_and_from_seed_to_seed(name):
  one, two, three = followed(name, 7)
  assert not np.array_equal(one, two)
  assert not np.array_equal(two, three)
  assert not np.array_equal(followed(name, 8), followed(name, 7))


@pytest.mark.parametrize("name", SEEDED)
def test_a_key_draws_what_the_integer_does_that_it_was_made_of(name):
  np.testing.assert_array_equal(followed(name, jax.random.key(7)), followed(name, 7))
