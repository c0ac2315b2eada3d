"""The gradient-to-noise ratio of given weights, against NumPy on raw vectors."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.accuracy import reference
from benchmarks.accuracy.battery import Problem, gradient_stats
from maxgnr_jax import GradientStats, single_task_gnr, task_gnr

pytestmark = pytest.mark.usefixtures("quick_compilation")
seeds = st.integers(0, 2**32 - 1)


def random_problem(seed, num_tasks=4):
  rng = np.random.default_rng(seed)
  scale = 10 ** rng.uniform(-3, 3, (2, num_tasks))
  return Problem(scale[0], scale[1][:, None] * rng.normal(size=(num_tasks, 9)))


@given(seed=seeds)
def test_task_gnr_agrees_with_the_raw_vectors(seed):
  problem = random_problem(seed)
  weights = np.random.default_rng(seed).dirichlet(np.ones(4))
  np.testing.assert_allclose(
    task_gnr(weights, gradient_stats(problem)),
    reference.task_gnr(weights, *problem),
    rtol=1e-4,
  )


def test_task_gnr_takes_weights_of_any_sign():
  problem = random_problem(0)
  weights = np.array([1.0, -2.0, 0.5, -0.1])
  np.testing.assert_allclose(
    task_gnr(weights, gradient_stats(problem)),
    reference.task_gnr(weights, *problem),
    rtol=1e-4,
  )


@given(seed=seeds, exponent=st.integers(-15, 15))
def test_task_gnr_depends_only_on_the_direction_of_the_weights(seed, exponent):
  stats = gradient_stats(random_problem(seed))
  weights = np.random.default_rng(seed).dirichlet(np.ones(4))
  np.testing.assert_allclose(
    task_gnr(weights * 10.0**exponent, stats), task_gnr(weights, stats), rtol=1e-4
  )


@given(seed=seeds, exponent=st.integers(-15, 15))
def test_the_gnr_does_not_depend_on_a_common_scale_of_gradient_and_noise(
  seed, exponent
):
  problem = random_problem(seed)
  scaled = gradient_stats(Problem(*(10.0**exponent * x for x in problem)))
  stats, weights = gradient_stats(problem), jnp.full(4, 1 / 4)
  np.testing.assert_allclose(
    task_gnr(weights, scaled), task_gnr(weights, stats), rtol=1e-4
  )
  np.testing.assert_allclose(single_task_gnr(scaled), single_task_gnr(stats), rtol=1e-4)


@given(seed=seeds)
def test_single_task_gnr_is_task_gnr_with_all_weight_on_one_task(seed):
  problem = random_problem(seed)
  alone = [reference.task_gnr(np.eye(4)[k], *problem)[k] for k in range(4)]
  np.testing.assert_allclose(single_task_gnr(gradient_stats(problem)), alone, rtol=1e-4)


def test_single_task_gnr_is_infinite_without_noise_and_zero_without_gradient():
  stats = GradientStats(
    jnp.array([2.0, 0.0, 0.0, 3.0]),
    jnp.array([0.0, 1.0, 0.0, 2.0]),
    jnp.diag(jnp.array([0.0, 1.0, 0.0, 1.0])),
  )
  np.testing.assert_allclose(single_task_gnr(stats), [np.inf, 0, 0, 2.25])


def test_task_gnr_is_infinite_where_noises_cancel_and_zero_without_weight_or_gradient():
  opposite = GradientStats(
    jnp.array([1.0, 1.0, 0.0]),
    jnp.array([1.0, 2.0, 0.0]),
    jnp.array([[1.0, -1.0, 0.0], [-1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]),
  )
  np.testing.assert_allclose(
    task_gnr(jnp.array([2.0, 1.0, 1.0]), opposite), [np.inf, np.inf, 0]
  )
  np.testing.assert_allclose(task_gnr(jnp.array([1.0, 0.0, 1.0]), opposite), [1, 0, 0])
  np.testing.assert_allclose(task_gnr(jnp.zeros(3), opposite), 0)


def test_the_gramian_of_the_noise_agrees_with_the_raw_vectors():
  problem = random_problem(1)
  np.testing.assert_allclose(
    gradient_stats(problem).noise_gram, problem.noise @ problem.noise.T, rtol=1e-4
  )


@pytest.mark.parametrize("weights", [np.ones(3), np.ones((4, 1)), 1.0])
def test_task_gnr_requires_one_weight_per_task(weights):
  stats = gradient_stats(random_problem(0))
  with pytest.raises(ValueError, match=r"one number per task, shape \(4,\), got shape"):
    task_gnr(weights, stats)
