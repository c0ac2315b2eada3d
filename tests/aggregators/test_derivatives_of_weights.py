"""Derivatives of weights that an algorithm finds, against central differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maxgnr_jax import aggregators

pytestmark = pytest.mark.usefixtures("quick_compilation")
NAMES = ("aligned_mtl", "dualproj", "mgda", "upgrad")
WIDTH = 1e-5
RNG = np.random.default_rng(3)
CONFLICTING = RNG.normal(size=(4, 6)) - 0.5 * RNG.normal(size=6)
CHANGE = RNG.normal(size=(4, 6))
LENGTHS = np.array([[1.0], [0.1], [0.01], [0.3]])
SECOND_IS_ZERO = np.diag([1.0, 0.0, 1.0, 1.0])
LAST_IS_HALF_THE_FIRST = np.eye(4)[[0, 1, 2, 0]] * np.array([[1], [1], [1], [0.5]])
# Gradients and how they change. In the last three cases derivatives exist only as long
# as orthogonal gradients stay so, zero stays zero and dependent ones dependent.
PATHS = {
  "ordinary": (CONFLICTING, CHANGE),
  "two decades": (LENGTHS * CONFLICTING, LENGTHS * CHANGE),
  "orthogonal": (np.diag([1.0, 2.0, 2.0, 3.0]), np.diag([0.5, -1.0, -1.0, 0.3])),
  "zero": (SECOND_IS_ZERO @ CONFLICTING, SECOND_IS_ZERO @ CHANGE),
  "dependent": (
    LAST_IS_HALF_THE_FIRST @ CONFLICTING,
    LAST_IS_HALF_THE_FIRST @ CHANGE,
  ),
}


def assert_derivative(weigh, path):
  """Compares the derivative of a function of the weighted sum along a path."""
  start, change = map(jnp.asarray, PATHS[path])
  seen = jnp.cos(jnp.arange(start.shape[1]))

  def objective(a):
    jacobian = start + a * change
    return weigh(jacobian @ jacobian.T) @ jacobian @ seen

  expected = (objective(WIDTH) - objective(-WIDTH)) / (2 * WIDTH)
  derivative = jax.grad(objective)(0.0)
  assert derivative == pytest.approx(float(expected), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", NAMES)
def test_derivatives_are_those_of_central_differences(name, path, float64):
  assert_derivative(jax.jit(getattr(aggregators, f"{name}_weights")), path)
