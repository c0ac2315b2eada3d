"""Quadratic programmes with lower bounds, against their optimality conditions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maxgnr_jax._linalg import minimise_above_exactly

pytestmark = pytest.mark.usefixtures("quick_compilation")
SIZE = 6
solve = jax.jit(minimise_above_exactly)
seeds = st.integers(0, 2**32 - 1)


def cosines(rng, rank, noise):
  """Cosines [K, K] between vectors near a random space of the given dimension."""
  rows = rng.normal(size=(SIZE, rank)) @ rng.normal(size=(rank, 20))
  rows += noise * rng.normal(size=rows.shape)
  rows /= np.linalg.norm(rows, axis=1, keepdims=True)
  return np.float32(rows @ rows.T)


@given(
  seed=seeds,
  rank=st.integers(1, SIZE),
  noise=st.sampled_from([0.0, 1e-4, 1e-2, 1.0]),
  decades=st.sampled_from([0, 4, 10]),
)
def test_the_solution_satisfies_the_optimality_conditions(seed, rank, noise, decades):
  rng = np.random.default_rng(seed)
  matrix = cosines(rng, rank, noise)
  bound = np.float32(10 ** rng.uniform(-decades, 0, SIZE))
  found = solve(jnp.asarray(matrix), jnp.asarray(bound))
  v, matrix, bound = (np.asarray(x, np.float64) for x in (found, matrix, bound))
  assert np.all(v >= bound)
  slope = matrix @ v
  rounding = 1e-5 * (np.abs(matrix) @ v)
  assert np.all(slope >= -rounding)
  assert np.all((slope <= rounding) | (v - bound <= 1e-6 * v))


def test_a_linear_term_moves_the_minimum_as_in_the_closed_form():
  # ½ v_0² + ½ v_1² + ½ v_0 v_1 - 3 v_0 - v_1 is least at (10, -2) / 3. With v_1 at its
  # bound 0 it is least at v_0 = 3.
  matrix = jnp.array([[1.0, 0.5], [0.5, 1.0]])
  linear = jnp.array([3.0, 1.0])
  free = solve(matrix, jnp.array([-9.0, -9.0]), linear)
  np.testing.assert_allclose(free, [10 / 3, -2 / 3], rtol=1e-5)
  np.testing.assert_allclose(solve(matrix, jnp.zeros(2), linear), [3, 0], rtol=1e-5)


@given(seed=seeds)
def test_equal_tasks_get_nearly_equal_values(seed):
  rng = np.random.default_rng(seed)
  matrix = cosines(rng, SIZE, 0.0)
  matrix[1], matrix[:, 1] = matrix[0], matrix[:, 0]
  matrix[0, 1] = matrix[1, 0] = matrix[1, 1] = 1
  v = solve(jnp.asarray(matrix), jnp.full(SIZE, 0.5))
  # The matrix is singular: their difference is only known to be small.
  np.testing.assert_allclose(v[0], v[1], rtol=0.1)


def test_without_a_minimum_the_slope_vanishes_beside_the_solution():
  v = solve(jnp.array([[1.0, -1.0], [-1.0, 1.0]]), jnp.zeros(2), jnp.ones(2))
  assert np.isfinite(v).all()
  np.testing.assert_allclose(v[0] - v[1], 0, atol=1e-5 * np.max(v))
  assert np.min(v) > 1e4
