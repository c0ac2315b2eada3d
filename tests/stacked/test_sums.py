"""Sums over millions of numbers are as exact as float32 allows."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maxgnr_jax import _stacked
from tests.helpers.marks import thorough_but

gram = jax.jit(_stacked.gramian, static_argnums=1)
norms = jax.jit(_stacked.norms, static_argnums=1)


def in_float64(x, y):
  """The inner products ``⟨x_i, y_j⟩`` of two lists of stacked arrays."""

  def flat(leaves):
    rows = [np.asarray(leaf, np.float64).reshape(len(leaf), -1) for leaf in leaves]
    return np.concatenate(rows, axis=1)

  return flat(x) @ flat(y).T


@pytest.mark.parametrize(
  ("num_tasks", "leaves"),
  thorough_but([(10, 1)], itertools.product((3, 7, 10), (1, 100))),
)
def test_sums_of_millions_of_positive_numbers_agree_with_float64(num_tasks, leaves):
  rng = np.random.default_rng(0)
  shape = (num_tasks, 3_000_000 // leaves)
  grads = [rng.random(shape, np.float32) + 0.5 for _ in range(leaves)]
  expected = in_float64(grads, grads)
  found = gram([jnp.asarray(x) for x in grads], jnp.float32)
  np.testing.assert_allclose(found, expected, rtol=1e-6)
  found = norms([jnp.asarray(x) for x in grads], jnp.float32)
  np.testing.assert_allclose(found, np.sqrt(np.diagonal(expected)), rtol=1e-6)
