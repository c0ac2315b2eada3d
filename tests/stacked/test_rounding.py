"""Stochastic rounding keeps a narrow momentum moving."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maxgnr_jax import maxgnr
from maxgnr_jax._stacked._rounding import stochastically_rounded

SEED = jnp.uint32(7)


@settings(max_examples=30)
@given(
  value=st.floats(2**-10, 65000, width=32),
  sign=st.sampled_from([-1.0, 1.0]),
  dtype=st.sampled_from(["bfloat16", "float16"]),
  seed=st.integers(0, 2**32 - 1),
)
def test_stochastic_rounding_gives_a_neighbour_and_is_right_on_average(
  value, sign, dtype, seed
):
  value = sign * float(np.float32(value))
  x = jnp.full((4096,), value, jnp.float32)
  rounded = stochastically_rounded(x, jnp.dtype(dtype), jnp.uint32(seed), 0)
  found = np.asarray(rounded, np.float64)
  gap = np.ptp(found)
  assert len(np.unique(found)) <= 2
  assert found.min() <= value <= found.max() or gap == 0
  assert abs(found.mean() - value) <= 5 * gap / np.sqrt(found.size)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_representable_and_non_finite_numbers_are_not_changed_by_rounding(dtype):
  x = jnp.array([0.0, 1.0, -2.5, jnp.inf, -jnp.inf, jnp.nan], jnp.float32)
  rounded = stochastically_rounded(x, jnp.dtype(dtype), SEED, 0)
  np.testing.assert_array_equal(rounded.astype(jnp.float32), x)
  same = stochastically_rounded(x, jnp.dtype("float32"), SEED, 0)
  np.testing.assert_array_equal(same, x)


def test_rounding_draws_differ_between_positions_arrays_and_steps():
  x = jnp.full((16, 1024), 1.001, jnp.float32)
  draws = [
    np.asarray(stochastically_rounded(x, jnp.dtype("bfloat16"), jnp.uint32(s), n) > 1)
    for s in range(3)
    for n in range(3)
  ]
  for i, first in enumerate(draws):
    assert 0.10 < first.mean() < 0.16  # 0.001 of a gap of 1/128
    rows = np.corrcoef(first.astype(float))
    assert np.abs(rows - np.eye(16)).max() < 0.2
    for second in draws[:i]:
      assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.1


def momentum_after(steps, **kwargs):
  """Mean momentum [T] for a noisy gradient that moved from 1 to 1.2."""
  tx = maxgnr(0.99, num_tasks=1, **kwargs)
  params = jnp.zeros(2000)
  rng = np.random.default_rng(0)
  noise = jnp.asarray(rng.normal(size=(steps, 1, 2000)), jnp.float32)

  def step(state, noise):
    _, state = tx.update(1.2 + 0.01 * noise, state)
    return state, jnp.mean(state.momentum.astype(jnp.float32))

  _, state = tx.update(jnp.ones((1, 2000)), tx.init(params))
  return np.asarray(jax.jit(lambda s: jax.lax.scan(step, s, noise))(state)[1])


@pytest.mark.thorough
def test_a_narrow_momentum_stalls_unless_it_is_rounded_stochastically():
  exact = momentum_after(300)
  nearest = momentum_after(300, momentum_dtype=jnp.bfloat16)
  stochastic = momentum_after(
    300, momentum_dtype=jnp.bfloat16, momentum_rounding="stochastic"
  )
  assert abs(nearest[-1] - exact[-1]) > 0.1
  assert abs(stochastic[-1] - exact[-1]) < 0.005


def test_an_unknown_rounding_raises_an_error_that_lists_the_choices():
  with pytest.raises(ValueError, match='must be "nearest" or "stochastic"'):
    maxgnr(momentum_rounding="up")


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_derivative_is_that_of_the_usual_conversion(dtype):
  x = jnp.linspace(-2.0, 3.0, 1000)

  def total(x):
    return jnp.sum(stochastically_rounded(x, jnp.dtype(dtype), SEED, 0).astype(x.dtype))

  np.testing.assert_array_equal(jax.grad(total)(x), 1.0)
