"""Interference, retained GNR and groups of tasks, against float64 references."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.accuracy import reference
from maxgnr_jax import (
  GradientStats,
  group_tasks,
  interference,
  retained_gnr,
  single_task_gnr,
  task_gnr,
)

pytestmark = pytest.mark.usefixtures("quick_compilation")
SEEDS = st.integers(0, 2**32 - 1)


def draw(seed, tasks=5, decades=2.0):
  """Norms of gradients [K] and noises [K, 2 K] in float64."""
  rng = np.random.default_rng(seed)
  size = 10 ** rng.uniform(-decades / 2, decades / 2, (2, tasks))
  noise = rng.normal(size=(tasks, 2 * tasks)) + rng.normal() * rng.normal(
    size=2 * tasks
  )
  return size[0], size[1][:, None] * noise


def stats_of(gradient_norm, noise):
  norm = np.linalg.norm(noise, axis=1)
  divisor = np.where(norm > 0, norm, 1.0)[:, None]
  cosine = (noise / divisor) @ (noise / divisor).T
  return GradientStats(
    *(jnp.asarray(x, jnp.float32) for x in (gradient_norm, norm, cosine))
  )


@given(SEEDS)
def test_rows_of_the_interference_add_up_to_the_inverse_gnr(seed):
  gradient_norm, noise = draw(seed)
  weights = np.random.default_rng(seed).uniform(0.1, 1.0, len(noise))
  stats = stats_of(gradient_norm, noise)
  found = np.asarray(interference(stats, weights))
  weighted = weights[:, None] * noise
  gramian = weighted @ weighted.T
  crossed = gramian.sum() - np.trace(gramian)
  missing = crossed / (weights * gradient_norm) ** 2
  inverse = 1.0 / np.asarray(task_gnr(weights, stats))
  scale = found.sum(axis=1) + np.abs(missing)
  np.testing.assert_allclose(
    (found.sum(axis=1) + missing) / scale, inverse / scale, atol=1e-4
  )
  alone = 1.0 / np.asarray(single_task_gnr(stats))
  np.testing.assert_allclose(np.diagonal(found), alone, rtol=1e-4)
  np.testing.assert_allclose(found, interference(stats, 7.0 * weights), rtol=1e-4)


def test_interference_of_tasks_without_weight_gradient_or_noise():
  stats = GradientStats(
    jnp.array([1.0, 0.0, 2.0]), jnp.array([1.0, 1.0, 0.0]), jnp.eye(3)
  )
  inf = np.inf
  expected = [[1.0, 1.0, 0.0], [inf, inf, 0.0], [0.25, 0.25, 0.0]]
  np.testing.assert_array_equal(interference(stats), expected)
  alone = interference(stats, [1.0, 0.0, 0.0])
  np.testing.assert_array_equal(alone, [[1, 0, 0], [inf, 0, 0], [inf, 0, 0]])
  with pytest.raises(ValueError, match="one number per task"):
    interference(stats, [1.0, 2.0])


@given(SEEDS, st.integers(1, 5))
def test_retained_shares_are_those_of_the_optimum(seed, count):
  gradient_norm, noise = draw(seed)
  order = np.random.default_rng(seed).permutation(5)[:count]
  weights = reference.optimal_weights(gradient_norm[order], noise[order])
  joint = reference.task_gnr(weights, gradient_norm[order], noise[order])
  alone = (gradient_norm[order] / np.linalg.norm(noise[order], axis=1)) ** 2
  stats = stats_of(gradient_norm, noise)
  np.testing.assert_allclose(retained_gnr(stats, order), joint / alone, rtol=2e-3)
  mask = np.isin(np.arange(5), order)
  expected = retained_gnr(stats, np.sort(order))
  np.testing.assert_array_equal(retained_gnr(stats, mask), expected)


def test_tasks_that_have_nothing_to_lose_keep_all():
  gradient, noise = jnp.array([1.0, 0.0, 2.0]), jnp.array([0.0, 1.0, 0.0])
  stats = GradientStats(gradient, noise, jnp.diag(jnp.array([0.0, 1.0, 0.0])))
  np.testing.assert_array_equal(retained_gnr(stats), [1.0, 1.0, 1.0])
  opposed = GradientStats(
    jnp.ones(2), jnp.ones(2), jnp.array([[1.0, -1.0], [-1.0, 1.0]])
  )
  assert (np.asarray(retained_gnr(opposed)) > 1e3).all()


@pytest.mark.parametrize(
  "tasks", [[], [0, 0], [0, 5], [-1], [0.5], [[0, 1]], np.ones(4, bool)]
)
def test_what_is_no_set_of_tasks_is_refused(tasks):
  with pytest.raises(ValueError, match="different numbers from 0 to 4"):
    retained_gnr(stats_of(*draw(0)), tasks)


def partitions(number, groups):
  """All partitions, by what group each task has."""
  seen = {}
  for labels in itertools.product(range(groups), repeat=number):
    if len(set(labels)) == groups:
      found = frozenset(
        frozenset(k for k in range(number) if labels[k] == group)
        for group in range(groups)
      )
      seen[found] = None
  return list(seen)


@pytest.mark.parametrize("objective", ["least", "mean"])
@pytest.mark.parametrize("num_groups", [1, 2, 4, 5])
@pytest.mark.parametrize("seed", [0, 1])
def test_no_partition_is_better(seed, num_groups, objective):
  stats = stats_of(*draw(seed))
  reduce = {"least": np.min, "mean": np.mean}[objective]

  def value(partition):
    found = [np.minimum(retained_gnr(stats, sorted(group)), 1) for group in partition]
    return reduce(np.concatenate(found))

  found = group_tasks(stats, num_groups, objective=objective)
  assert sorted(itertools.chain(*found)) == list(range(5))
  assert found == sorted(sorted(group) for group in found)
  best = max(value(partition) for partition in partitions(5, num_groups))
  np.testing.assert_allclose(value(found), best, atol=1e-4)


def test_tasks_of_one_kind_are_found_among_many():
  """Noisy tasks drown quiet ones; the heuristic must separate them."""
  ratio = np.tile([1.0, 30.0, 900.0], 4)
  stats = GradientStats(jnp.ones(12), jnp.asarray(ratio, jnp.float32), jnp.eye(12))
  assert group_tasks(stats, 3) == [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11]]


def test_equal_tasks_are_grouped_in_their_order():
  stats = GradientStats(jnp.ones(4), jnp.ones(4), jnp.eye(4))
  assert group_tasks(stats, 2) == [[0, 1], [2, 3]]


def test_wrong_arguments_of_group_tasks_are_refused():
  stats = stats_of(*draw(0))
  for number in (0, 6, 2.0):
    with pytest.raises(ValueError, match="an integer from 1 to the number of tasks"):
      group_tasks(stats, number)
  with pytest.raises(ValueError, match="`objective` must be"):
    group_tasks(stats, 2, objective="worst")
