"""The projection on the simplex."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maxgnr_jax._linalg._simplex import project_on_simplex
from tests.helpers.gradient_sequence import projected

pytestmark = pytest.mark.usefixtures("quick_compilation")
project = jax.jit(project_on_simplex)


@given(
  st.lists(st.floats(-1, 1, width=32), min_size=5, max_size=5),
  st.sampled_from([0.1, 1.0, 10.0, 1e6]),
)
def test_the_projection_is_the_nearest_point_of_the_simplex(entries, scale):
  vector = np.float32(scale) * np.array(entries, np.float32)
  weights = np.asarray(project(vector), np.float64)
  assert weights.min() >= 0
  assert weights.sum() == pytest.approx(1, abs=1e-5)
  # The simplex lies in the half-space behind the projection, because its corners do.
  # An offset that all entries share changes nothing.
  away = (vector - vector.max()) - weights
  assert np.max(away - weights @ away) <= 1e-5 * max(1.0, np.ptp(vector))


def test_the_projection_is_exact_beside_a_large_common_offset():
  for offset in (0.0, 1e4, -1e10):
    vector = jnp.float32([0.25, 0.5, 0.0]) + jnp.float32(offset)
    expected = projected(np.asarray(vector - vector.max(), np.float64))
    np.testing.assert_allclose(project_on_simplex(vector), expected, rtol=1e-5)
