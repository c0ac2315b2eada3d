"""Random numbers differ between steps and seeds, in every method that draws them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maxgnr_jax import aggregators
from tests.helpers.examples import task_gradients

pytestmark = pytest.mark.usefixtures("quick_compilation")
SEEDED = ("graddrop", "gradient_dropout", "gradvac", "pcgrad", "random_weights")


@functools.cache
def three_steps(name):
  """Compiles three steps on the same gradients; returns their updates."""
  tx = getattr(aggregators, name)(num_tasks=5)
  grads = jnp.asarray(task_gradients(0, 5), jnp.float32)

  def step(state, _):
    updates, state = tx.update(grads, state)
    return state, updates

  return jax.jit(lambda state: jax.lax.scan(step, state, length=3)[1])


def followed(name, seed):
  tx = getattr(aggregators, name)(num_tasks=5, key=seed)
  return np.asarray(three_steps(name)(tx.init(jnp.zeros(10))))


@pytest.mark.parametrize("name", SEEDED)
def test_random_numbers_differ_between_steps_and_between_seeds(name):
  one, two, three = followed(name, 7)
  assert not np.array_equal(one, two)
  assert not np.array_equal(two, three)
  assert not np.array_equal(followed(name, 8), followed(name, 7))


@pytest.mark.parametrize("name", SEEDED)
def test_a_key_draws_the_same_numbers_as_its_integer_seed(name):
  np.testing.assert_array_equal(followed(name, jax.random.key(7)), followed(name, 7))
