"""Inner products and norms of stacked gradients against float64."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from maxgnr_jax import _stacked

SIZES = st.one_of(st.integers(0, 70), st.sampled_from([2047, 2048, 4096, 4099, 70_001]))
gram = jax.jit(_stacked.gramian, static_argnums=1)
norms = jax.jit(_stacked.norms, static_argnums=1)


def in_float64(x, y):
  """The inner products ``⟨x_i, y_j⟩`` of two lists of stacked arrays."""

  def flat(leaves):
    rows = [np.asarray(leaf, np.float64).reshape(len(leaf), -1) for leaf in leaves]
    return np.concatenate(rows, axis=1)

  return flat(x) @ flat(y).T


@given(
  num_tasks=st.integers(1, 10),
  sizes=st.lists(SIZES, min_size=1, max_size=4),
  dtype=st.sampled_from(["float32", "bfloat16"]),
  seed=st.integers(0, 9),
)
@example(num_tasks=3, sizes=[0, 0], dtype="bfloat16", seed=0)
@settings(max_examples=12)
def test_inner_products_and_norms_agree_with_float64(num_tasks, sizes, dtype, seed):
  rng = np.random.default_rng(seed)

  def draw():
    numbers = [rng.standard_normal((num_tasks, size)) for size in sizes]
    return [jnp.asarray(x, jnp.float32).astype(dtype) for x in numbers]

  x, y = draw(), draw()
  inner, cross = in_float64(x, x), in_float64(x, y)
  norm = np.sqrt(np.diagonal(inner))
  other_norm = np.sqrt(np.diagonal(in_float64(y, y)))
  scale, other_scale = np.outer(norm, norm), np.outer(norm, other_norm)
  np.testing.assert_allclose(norms(x, jnp.float32), norm, rtol=1e-6)
  # Errors of long arrays stay below 1e-6; a plain sum of 1,000 numbers reached 1.6e-6.
  found = gram(x, jnp.float32)
  np.testing.assert_array_less(abs(found - inner), 2e-6 * scale + 1e-30)
  found = gram(x, jnp.float32, y)
  np.testing.assert_array_less(abs(found - cross), 2e-6 * other_scale + 1e-30)
