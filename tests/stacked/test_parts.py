"""Sums and samples of arrays that are split into parts of any shard."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maxgnr_jax._stacked import _parts, sums_of_products, sums_of_squares
from tests.helpers.marks import thorough_but

SHAPES = st.lists(st.integers(1, 24), max_size=3)
DEVICES = st.integers(1, 12)


def row(k, x):
  return x


@given(n=st.integers(1, 10_000), devices=st.integers(1, 100))
def test_a_shard_of_an_axis_is_a_number_of_whole_parts(n, devices):
  parts = _parts._number_of_parts(n, devices)
  assert n % parts == 0
  for shards in range(1, devices + 1):
    if n % shards == 0:
      assert parts % shards == 0


@given(shape=SHAPES, devices=DEVICES, size=st.integers(1, 100))
def test_a_sample_has_numbers_of_every_part(shape, devices, size):
  parts = np.prod([_parts._number_of_parts(n, devices) for n in shape], dtype=int)
  count = np.prod(shape, dtype=int)
  # Every number says its task and its place.
  x = np.arange(2 * count).reshape(2, *shape)
  sample = np.asarray(_parts.sample_of_parts(jnp.asarray(x), size, devices))
  for numbers, task in zip(sample, x, strict=True):
    assert min(max(size, parts), count) <= numbers.size <= count
    assert np.unique(numbers).size == numbers.size
    assert np.isin(numbers, task).all()


def in_parts(sums, leaves, devices):
  leaves = [(jnp.asarray(x),) for x in leaves]
  return jax.jit(lambda leaves: _parts.sum_in_parts(sums, leaves, devices))(leaves)


@pytest.mark.parametrize(
  ("num_tasks", "devices"),
  thorough_but([(3, 256), (10, 4)], itertools.product((3, 10), (4, 6, 256))),
)
def test_sums_in_parts_of_a_million_positive_numbers_agree_with_float64(
  num_tasks, devices
):
  rng = np.random.default_rng(0)
  shapes = [(960, 1024), (7, 10_007), (128,), ()]
  leaves = [rng.random((num_tasks, *s), np.float32) + 0.5 for s in shapes]
  rows = np.concatenate(
    [np.asarray(x, np.float64).reshape(num_tasks, -1) for x in leaves], axis=1
  )
  expected = rows @ rows.T
  found, _ = in_parts(lambda leaves: sums_of_products(leaves, row), leaves, devices)
  np.testing.assert_allclose(found, expected, rtol=1e-6)
  found = in_parts(lambda leaves: sums_of_squares(leaves, row), leaves, devices)
  np.testing.assert_allclose(found, np.diagonal(expected), rtol=1e-6)


def test_many_tasks_are_summed_without_a_copy_of_their_numbers():
  def gram(x):
    def products(leaves):
      return sums_of_products(leaves, row)[0]

    return _parts.sum_in_parts(products, [(x,)], 8)

  x = jax.ShapeDtypeStruct((10, 512, 512), jnp.float32)
  memory = jax.jit(gram).lower(x).compile().memory_analysis()
  assert memory.temp_size_in_bytes < memory.argument_size_in_bytes / 4
