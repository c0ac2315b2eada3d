"""The optimum of k-means in one dimension against all partitions into intervals."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maxgnr_jax._linalg import cluster_means

pytestmark = pytest.mark.usefixtures("quick_compilation")
compiled = functools.cache(
  lambda clusters: jax.jit(lambda active, x: cluster_means(active, x, clusters))
)


def distance(values, means):
  return np.sum((values - means) ** 2)


def least_distance(values, clusters):
  """The least sum of squared distances to the means of some intervals."""
  ordered, found = np.sort(values), []
  for cuts in itertools.combinations(range(1, len(values)), clusters - 1):
    parts = np.split(ordered, cuts)
    found.append(sum(distance(part, part.mean()) for part in parts))
  return min(found)


@pytest.mark.parametrize("clusters", [1, 2, 3])
@given(
  seed=st.integers(0, 2**32 - 1), number=st.integers(3, 6), decades=st.integers(0, 3)
)
def test_the_distances_are_as_small_as_can_be(clusters, seed, number, decades):
  rng = np.random.default_rng(seed)
  values = 10 ** rng.uniform(-decades, decades, 6)
  active = rng.permutation(np.arange(6) < number)
  drawn = jnp.asarray(np.where(active, values, np.nan), jnp.float32)
  means = np.asarray(compiled(clusters)(jnp.asarray(active), drawn), np.float64)
  assert len(set(means[active])) <= clusters
  np.testing.assert_array_equal(means[~active], 0)
  found, least = (
    distance(values[active], means[active]),
    least_distance(values[active], clusters),
  )
  assert found <= 1.001 * least + 1e-10 * np.max(values) ** 2
  for mean in set(means[active]):
    members = values[active & (means == mean)]
    assert mean == pytest.approx(members.mean(), rel=1e-5)


def test_fewer_numbers_than_clusters_stay_as_they_are():
  active = jnp.array([True, False, True, False])
  means = compiled(3)(active, jnp.array([3.0, 1.0, 7.0, jnp.inf]))
  np.testing.assert_array_equal(means, [3.0, 0.0, 7.0, 0.0])


def test_nothing_active_has_no_means():
  means = compiled(2)(jnp.zeros(3, bool), jnp.arange(3.0))
  np.testing.assert_array_equal(means, 0)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_any_scale_has_the_same_clusters(scale):
  means = compiled(2)(jnp.ones(4, bool), scale * jnp.array([1.0, 8.0, 2.0, 9.0]))
  np.testing.assert_allclose(means / scale, [1.5, 8.5, 1.5, 8.5], rtol=1e-5)
