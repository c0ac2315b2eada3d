"""Singular values that are accurate relative to themselves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maxgnr_jax._linalg import principal_components

pytestmark = pytest.mark.usefixtures("quick_compilation")
decompose = jax.jit(principal_components)


@given(
  seed=st.integers(0, 2**32 - 1),
  num_tasks=st.sampled_from([1, 2, 5, 8]),
  dependent=st.booleans(),
  zero=st.booleans(),
  decades=st.sampled_from([0, 4, 12]),
)
def test_the_components_make_up_each_product_relative_to_the_norms(
  seed, num_tasks, dependent, zero, decades
):
  rng = np.random.default_rng(seed)
  jacobian = rng.normal(size=(num_tasks, 30)) + rng.normal(size=30)
  if dependent:
    jacobian[-1] = jacobian[0]
  jacobian *= 10 ** rng.uniform(-decades, 0, (num_tasks, 1))
  if zero:
    jacobian[num_tasks // 2] = 0
  gramian = jacobian @ jacobian.T
  values, vectors = decompose(jnp.asarray(gramian, jnp.float32))
  values, vectors = np.float64(values), np.float64(vectors)
  norms = np.sqrt(np.diagonal(gramian))
  exists = values > 0
  made = (vectors * values**2) @ vectors.T * norms.max() ** 2
  assert np.all(np.abs(made - gramian) <= 1e-5 * np.outer(norms, norms))
  overlaps = vectors[:, exists].T @ vectors[:, exists]
  np.testing.assert_allclose(overlaps, np.eye(exists.sum()), atol=1e-5)
  np.testing.assert_array_equal(vectors[:, ~exists], 0)
  positive = norms > 0
  units = jacobian[positive] / norms[positive, None]
  rank = np.linalg.matrix_rank(units, tol=1e-6) if positive.any() else 0
  assert exists.sum() == rank


def test_many_gradients_of_one_direction_have_one_component():
  norms = np.float32(np.geomspace(1e-8, 1, 40))
  values, vectors = decompose(jnp.asarray(np.outer(norms, norms)))
  largest = np.argmax(values)
  assert np.count_nonzero(values) == 1
  np.testing.assert_allclose(values[largest], np.linalg.norm(norms), rtol=1e-5)
  expected = norms / np.linalg.norm(norms)
  np.testing.assert_allclose(np.abs(vectors[:, largest]), expected, rtol=1e-4)
