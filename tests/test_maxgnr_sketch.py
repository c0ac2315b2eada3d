"""`maxgnr` on sketches is Algorithm 1 on the sketches that their definition gives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.accuracy import reference
from maxgnr_jax import maxgnr
from tests.helpers.examples import flat, follow, rows
from tests.helpers.trees import assert_trees_close
from tests.stacked.sketch_reference import reference as definition

pytestmark = pytest.mark.usefixtures("quick_compilation")
NUM_TASKS, STEPS, SIZE, GAMMA = 3, 4, 101, 0.8
PARAMS = {
  "head": jnp.zeros(7),
  "inner": {"bias": jnp.zeros(9), "kernel": jnp.zeros((40, 30))},
}
SHARED = {"head": False, "inner": True}


@functools.cache
def sequence():
  """Gradients with a signal, and noises that are correlated."""
  rng = np.random.default_rng(0)
  mixing = np.array([[1.0, 0.0, 0.0], [-0.7, 0.7, 0.0], [0.2, 0.3, 0.9]])
  scale = np.array([1.0, 5.0, 0.1])

  def drawn(mean):
    noise = np.tensordot(scale[:, None] * mixing, rng.normal(size=mean.shape), 1)
    return jnp.asarray(np.tensordot(np.diag(scale), mean, 1) + noise, jnp.float32)

  means = jax.tree.map(lambda p: rng.normal(size=(NUM_TASKS, *p.shape)), PARAMS)
  return [jax.tree.map(drawn, means) for _ in range(STEPS)]


@functools.cache
def sketches():
  """The sketches of the trunk, [T, K, size], in float64."""
  return [definition(jax.tree.leaves(grads["inner"]), SIZE) for grads in sequence()]


@functools.cache
def followed(**kwargs):
  tx = maxgnr(GAMMA, num_tasks=NUM_TASKS, shared=SHARED, sketch=SIZE, **kwargs)
  return follow(tx, PARAMS, sequence())


def test_steps_are_those_of_algorithm_1_on_the_sketches():
  expected = reference.algorithm1(sketches(), GAMMA)
  for grads, (updates, state), step in zip(
    sequence(), followed(), expected, strict=True
  ):
    close = functools.partial(np.testing.assert_allclose, rtol=1e-3)
    norm, noise_norm = (np.linalg.norm(x, axis=1) for x in (step.momentum, step.noise))
    close(state.weights, step.weights)
    close(state.momentum, step.momentum, atol=1e-3 * norm.min())
    close(state.stats.gradient_norm, norm)
    close(state.stats.noise_norm, noise_norm)
    weights = np.asarray(state.weights, np.float64)
    close(flat(updates), weights @ rows(grads), atol=1e-5)
    if noise_norm.any():
      close(state.single_task_gnr, (norm / noise_norm) ** 2)
      cosine = step.noise @ step.noise.T / np.outer(noise_norm, noise_norm)
      close(state.stats.noise_cosine, cosine, atol=1e-3)


def test_the_average_noise_is_that_of_the_sketches():
  exact = maxgnr(GAMMA, num_tasks=NUM_TASKS, noise_decay=0.9)
  history = follow(exact, jnp.zeros(SIZE), jnp.asarray(sketches(), jnp.float32))
  for (_, found), (_, expected) in zip(followed(noise_decay=0.9), history, strict=True):
    for name in ("noise", "stats", "weights", "gnr"):
      found_field, right = getattr(found, name), getattr(expected, name)
      assert_trees_close(found_field, right, rtol=1e-3, atol=1e-4)


def test_statistics_differ_from_exact_ones_by_the_error_of_sketches():
  exact = reference.algorithm1([rows(grads["inner"]) for grads in sequence()], GAMMA)
  error = 3.5 * np.sqrt(2 / SIZE)
  for (_, state), step in zip(followed(), exact, strict=True):
    norm, noise_norm = (np.linalg.norm(x, axis=1) for x in (step.momentum, step.noise))
    np.testing.assert_allclose(state.stats.gradient_norm, norm, rtol=error)
    np.testing.assert_allclose(state.stats.noise_norm, noise_norm, rtol=error)
    if noise_norm.any():
      cosine = step.noise @ step.noise.T / np.outer(noise_norm, noise_norm)
      assert 0 < np.abs(state.stats.noise_cosine - cosine).max() < error


@pytest.mark.usefixtures("usual_compilation")
def test_with_many_buckets_the_update_is_nearly_the_exact_one():
  rng = np.random.default_rng(0)
  means = rng.normal(size=(NUM_TASKS, 260, 300))
  history = [
    jnp.asarray(means + rng.normal(size=means.shape), jnp.float32) for _ in range(2)
  ]
  found = flat(follow(maxgnr(sketch=65_521), jnp.zeros((260, 300)), history)[-1][0])
  exact = reference.algorithm1([rows(grads) for grads in history], 0.9)[-1].update
  error = np.linalg.norm(found - exact) / np.linalg.norm(exact)
  assert 0 < error < 3 * np.sqrt(NUM_TASKS / 65_521)


@functools.cache
def compiled_update():
  tx = maxgnr(GAMMA, num_tasks=NUM_TASKS, shared=SHARED, sketch=SIZE)
  return tx, jax.jit(tx.update)


@settings(max_examples=10)
@given(exponent=st.integers(-15, 15), task=st.integers(0, 2))
def test_multiplying_one_loss_does_not_change_the_updates_direction(exponent, task):
  tx, update = compiled_update()
  state, factors = tx.init(PARAMS), np.ones(NUM_TASKS)
  factors[task] = 10.0**exponent

  def scaled(x):
    return x * jnp.asarray(factors, x.dtype).reshape(-1, *(1,) * (x.ndim - 1))

  for grads in sequence():
    updates, state = update(jax.tree.map(scaled, grads), state, PARAMS)
  found, expected = flat(updates), flat(followed()[-1][0])
  np.testing.assert_allclose(
    found / np.linalg.norm(found), expected / np.linalg.norm(expected), atol=2e-3
  )


def test_a_sketch_kept_in_bfloat16_follows_that_in_float32():
  history = followed(momentum_dtype=jnp.bfloat16, momentum_rounding="stochastic")
  for (_, found), (_, expected) in zip(history, followed(), strict=True):
    assert found.momentum.dtype == jnp.bfloat16
    np.testing.assert_allclose(found.weights, expected.weights, rtol=0.1)


def test_the_states_size_does_not_depend_on_the_models():
  for shape in ((), (7,), (300, 200)):
    state = maxgnr(num_tasks=3, sketch=SIZE).init(jnp.zeros(shape))
    assert state.momentum.shape == (3, SIZE)
    assert state.momentum.dtype == jnp.float32
  state = maxgnr(num_tasks=3, sketch=SIZE, groups="layer").init(PARAMS)
  assert state.momentum.shape == (2, 3, SIZE)
