"""Sums over all parameters: against float64, and how much memory they take."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maxgnr_jax import _stacked, aggregators, maxgnr

SIZES = st.one_of(st.integers(0, 70), st.sampled_from([2047, 2048, 4096, 4099, 70_001]))


gram = jax.jit(_stacked.gram, static_argnums=1)
norms = jax.jit(_stacked.norms, static_argnums=1)


def in_float64(x, y):
  """``⟨x_i, y_j⟩`` of lists of stacked arrays."""

  def flat(leaves):
    rows = [np.asarray(leaf, np.float64).reshape(len(leaf), -1) for leaf in leaves]
    return np.concatenate(rows, axis=1)

  return flat(x) @ flat(y).T


@given(
  num_tasks=st.integers(1, 10),
  sizes=st.lists(SIZES, min_size=1, max_size=4).filter(any),
  dtype=st.sampled_from(["float32", "bfloat16"]),
  seed=st.integers(0, 9),
)
@settings(max_examples=12)
def test_products_and_norms_agree_with_float64(num_tasks, sizes, dtype, seed):
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
  # Long arrays stay below 1e-6; of 1,000 numbers, one plain sum, 1.6e-6 was seen.
  found = gram(x, jnp.float32)
  np.testing.assert_array_less(abs(found - inner), 2e-6 * scale + 1e-30)
  found = gram(x, jnp.float32, y)
  np.testing.assert_array_less(abs(found - cross), 2e-6 * other_scale + 1e-30)


@pytest.mark.parametrize("num_tasks", [3, 7, 10])
@pytest.mark.parametrize("leaves", [1, 100])
def test_sums_of_millions_of_positive_numbers_lose_nothing(num_tasks, leaves):
  rng = np.random.default_rng(0)
  shape = (num_tasks, 3_000_000 // leaves)
  grads = [rng.random(shape, np.float32) + 0.5 for _ in range(leaves)]
  expected = in_float64(grads, grads)
  found = gram([jnp.asarray(x) for x in grads], jnp.float32)
  np.testing.assert_allclose(found, expected, rtol=1e-6)
  found = norms([jnp.asarray(x) for x in grads], jnp.float32)
  np.testing.assert_allclose(found, np.sqrt(np.diagonal(expected)), rtol=1e-6)


def temporary_share(tx, num_tasks, shapes, dtype):
  """Temporary memory of a compiled update in units of the gradients'."""
  params = [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]
  grads = [jax.ShapeDtypeStruct((num_tasks, *shape), dtype) for shape in shapes]
  state = jax.eval_shape(tx.init, params)
  compiled = jax.jit(tx.update, donate_argnums=1).lower(grads, state, params).compile()
  size = sum(np.prod(g.shape) * g.dtype.itemsize for g in grads)
  return compiled.memory_analysis().temp_size_in_bytes / size


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="Measured on CPUs.")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
  ("num_tasks", "shapes"),
  [
    (3, [(1953, 1024)] * 12),
    (3, [(46, 1024)] * 50 + [(512,)] * 50),
    (10, [(406, 1024)] * 12),
    (10, [(400_009,)] * 3),
  ],
  ids=["large", "many", "tasks", "odd"],
)
def test_a_step_keeps_no_copies(num_tasks, shapes, dtype):
  if dtype == "bfloat16" and jax.__version_info__ < (0, 10):
    pytest.skip("Older versions of XLA widen narrow arrays in memory.")
  tx = maxgnr(num_tasks=num_tasks)
  share = temporary_share(tx, num_tasks, shapes, dtype)
  # XLA on CPUs keeps partial results of narrow reductions; K×D copies would be 100 %.
  assert share < (0.01 if dtype == "float32" else 0.07)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="Measured on CPUs.")
@pytest.mark.parametrize("method", ["mgda", "imtl_g", "upgrad"])
def test_a_gramian_method_keeps_no_copies(method):
  tx = getattr(aggregators, method)(num_tasks=10)
  assert temporary_share(tx, 10, [(406, 1024)] * 12, "float32") < 0.01
