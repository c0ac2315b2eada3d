"""`maxgnr` followed for many steps beside Algorithm 1 written in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.accuracy import reference
from maxgnr_jax import maxgnr, steepest_descent
from tests.helpers.examples import (
  algorithm1,
  example_params,
  flat,
  follow,
  rows,
)
from tests.helpers.marks import thorough_but


def trending_grads(dtype, num_steps=50, scales=(1.0, 1e-3, 100.0, 1.0)):
  """Gradients with a direction that persists and noise that tasks partly share."""
  params = example_params(dtype)
  rng = np.random.default_rng(0)
  num_tasks = len(scales)
  mixing = rng.normal(size=(num_tasks, num_tasks)) + np.eye(num_tasks)
  means = jax.tree.map(lambda p: rng.normal(size=(num_tasks, *p.shape)), params)

  def drawn(mean):
    noise = np.tensordot(mixing, rng.normal(size=mean.shape), 1)
    scale = np.reshape(scales, (-1, *(1,) * (mean.ndim - 1)))
    return jnp.asarray(scale * (mean + noise), dtype)

  return params, [jax.tree.map(drawn, means) for _ in range(num_steps)]


def assert_follows(tx, params, sequence, expected, rtol):
  for (updates, state), step in zip(
    follow(tx, params, sequence), expected, strict=True
  ):
    number = int(state.count)
    close = functools.partial(
      np.testing.assert_allclose, rtol=rtol, err_msg=f"step {number}"
    )
    norm, noise_norm = (np.linalg.norm(x, axis=1) for x in (step.momentum, step.noise))
    close(state.weights, step.weights)
    close(rows(state.momentum), step.momentum, atol=rtol * norm.min())
    close(flat(updates), step.update, atol=rtol * np.max(np.abs(step.update)))
    close(state.stats.gradient_norm, norm)
    close(state.stats.noise_norm, noise_norm)
    if not step.noise.any():
      continue
    cosine = step.noise @ step.noise.T / np.outer(noise_norm, noise_norm)
    close(state.stats.noise_cosine, cosine, atol=rtol)
    close(state.gnr, reference.task_gnr(step.weights, norm, step.noise), rtol=10 * rtol)
    close(state.single_task_gnr, (norm / noise_norm) ** 2, rtol=10 * rtol)
  assert number == len(sequence)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("gamma", thorough_but([0.0, 0.9], [0.0, 0.5, 0.9, 0.99]))
def test_float64_follows_algorithm_1_to_the_solvers_precision(gamma):
  params, sequence = trending_grads(jnp.float64)
  expected = algorithm1(sequence, gamma)
  assert_follows(maxgnr(gamma, num_tasks=4), params, sequence, expected, rtol=1e-7)


@pytest.mark.parametrize("gamma", [0.0, 0.9])
def test_float32_follows_algorithm_1(gamma):
  params, sequence = trending_grads(jnp.float32)
  expected = algorithm1(sequence, gamma)
  assert_follows(maxgnr(gamma, num_tasks=4), params, sequence, expected, rtol=1e-3)


@pytest.mark.usefixtures("float64")
def test_with_shared_weights_follow_the_trunk_and_updates_hold_all_parameters():
  params, sequence = trending_grads(jnp.float64)
  head = flat(params["head"]).size
  expected = algorithm1(sequence, measured=slice(head, None))
  tx = maxgnr(shared={"head": False, "trunk": True})
  assert_follows(tx, params, sequence, expected, rtol=1e-7)


@pytest.mark.usefixtures("float64")
def test_the_papers_solver_follows_algorithm_1_with_steepest_descent():
  params, sequence = trending_grads(jnp.float64, 20, scales=(1.0, 0.7, 2.0, 1.5))

  def descend(momentum_norm, noise):
    if (
      not noise.any()
    ):  # all weights are equally good: the solver keeps its initial ones
      return np.full(len(noise), 1 / len(noise))
    return reference.steepest_descent_weights(momentum_norm, noise, 1e-2, 30)

  tx = maxgnr(0.5, solver=steepest_descent(learning_rate=1e-2, num_steps=30))
  expected = algorithm1(sequence, 0.5, choose_weights=descend)
  assert np.ptp([step.weights for step in expected]) > 1e-3
  assert_follows(tx, params, sequence, expected, rtol=1e-7)


def test_gamma_zero_measures_no_noise_and_weights_by_inverse_gradient_norms():
  params, sequence = trending_grads(jnp.float32, 5)
  history = follow(maxgnr(0.0), params, sequence)
  for grads, (_, state) in zip(sequence, history, strict=True):
    inverse = 1 / np.linalg.norm(rows(grads), axis=1)
    np.testing.assert_allclose(state.weights, inverse / inverse.sum(), rtol=1e-5)
    np.testing.assert_array_equal(state.stats.noise_norm, 0)
    np.testing.assert_array_equal(state.gnr, np.inf)
