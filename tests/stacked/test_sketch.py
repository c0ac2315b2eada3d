"""The sketch is the one of its definition, and keeps norms and inner products."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maxgnr_jax._stacked import DEFAULT_SIZE, sketch
from maxgnr_jax._stacked._sharding import Shard
from maxgnr_jax._stacked._sketch import (
  _by_columns,
  _by_places,
  _Part,
  _places,
  _segments,
)
from tests.stacked.sketch_reference import reference

pytestmark = pytest.mark.usefixtures("quick_compilation")


@functools.partial(jax.jit, static_argnums=(1, 2))
def jitted(grads, size, dtype=jnp.float32):
  return sketch(grads, size, dtype)


def draw(num_tasks, shapes, dtype=jnp.float32, seed=0):
  rng = np.random.default_rng(seed)
  return [jnp.asarray(rng.standard_normal((num_tasks, *s)), dtype) for s in shapes]


def shapes_around(size):
  """Empty, scalar, small and large parameters, and those next to limits."""
  edges = [(size,), (size + 15,), (size + 16,), (2 * size + 1,), (3 * size,)]
  return [(), (7,), (0, 4), (13, 17), (2, 3, 1, 7), *edges, (8 * size + 3,)]


@pytest.mark.parametrize(("num_tasks", "size"), [(2, 3), (3, 33), (1, 301)])
def test_a_sketch_is_the_one_of_its_definition(num_tasks, size):
  grads = draw(num_tasks, shapes_around(size))
  found = jitted(grads, size)
  assert found.dtype == jnp.float32
  np.testing.assert_allclose(found, reference(grads, size), atol=1e-4)


@pytest.mark.parametrize("length", [301 * 8, 301 * 9 + 1, 301 * 45 + 100])
def test_loops_over_blocks_end_where_the_parameter_does(length):
  grads = draw(2, [(length,), (length,)])
  np.testing.assert_allclose(jitted(grads, 301), reference(grads, 301), atol=1e-4)


def test_many_small_parameters_are_in_several_segments():
  grads = draw(2, [(33,)] * 30)
  assert len({segment for segment, _ in _segments([33] * 30, 33)}) == 2
  np.testing.assert_allclose(jitted(grads, 33), reference(grads, 33), atol=1e-4)


def test_forms_for_accelerators_and_for_sharded_arrays_give_the_same():
  size = 33
  grads = [x for x in draw(2, shapes_around(size)) if x.size]
  where = _segments([x[0].size for x in grads], size)
  expected = reference(grads, size)
  columns = jax.jit(lambda g: _by_columns(g, where, size, jnp.float32))(grads)
  np.testing.assert_allclose(columns, expected, atol=1e-4)

  def by_places(grads):
    parts = [
      _Part(x, Shard(x.shape[1:]), *w) for x, w in zip(grads, where, strict=True)
    ]
    return sum(_by_places(part, size, jnp.float32) for part in parts)

  np.testing.assert_allclose(jax.jit(by_places)(grads), expected, atol=1e-4)


def test_narrow_numbers_are_added_in_the_wider_dtype():
  size = 301
  grads = draw(2, [(5,), (7,), (3 * size,), (9 * size,)], jnp.bfloat16)
  grads[1] = grads[1].astype(jnp.float32)
  found = jitted(grads, size)
  assert found.dtype == jnp.float32
  np.testing.assert_allclose(found, reference(grads, size), atol=1e-4)


@pytest.mark.usefixtures("float64")
def test_sums_in_double_precision():
  wide, narrow = [(5,), (3 * 301,)], [(9 * 301,)]
  grads = draw(2, wide, jnp.float64) + draw(2, narrow, jnp.float32)
  found = jitted(grads, 301, jnp.float64)
  assert found.dtype == jnp.float64
  np.testing.assert_allclose(found, reference(grads, 301), rtol=1e-13, atol=1e-12)


def test_without_numbers_a_sketch_is_zero():
  np.testing.assert_array_equal(jitted([jnp.ones((3, 0, 4))], 5), np.zeros((3, 5)))


def test_an_axis_beyond_32_bits_raises_a_clear_error():
  huge = jax.ShapeDtypeStruct((1, 2**32), jnp.float32)
  with pytest.raises(ValueError, match=r"fewer than 2\*\*32 elements"):
    sketch([huge], 5, jnp.float32)


def test_positions_beyond_32_bits_do_not_overflow():
  """Only the numbers at a shard's place are computed, of a parameter of 2⁴⁵."""
  size, shape, local = DEFAULT_SIZE, (2**19, 2**14, 2**12 + 1), (2, 3, 2)
  starts = (2**19 - 2, 2**14 - 3, 2**12 - 1)
  traced = tuple(jnp.uint32(start) for start in starts)
  block, bucket = _places(Shard(shape, traced), local, 11, size)
  for index in np.ndindex(*local):
    i, j, k = (start + n for start, n in zip(starts, index, strict=True))
    expected = divmod(11 + (i * shape[1] + j) * shape[2] + k, size)
    assert (int(block[index]), int(bucket[index])) == expected


def test_a_sketch_is_linear():
  x, y = draw(2, [(700, 5), (40,)]), draw(2, [(700, 5), (40,)], seed=1)
  both = jax.tree.map(lambda x, y: 2.0 * x - 0.5 * y, x, y)
  expected = 2.0 * jitted(x, 301) - 0.5 * jitted(y, 301)
  np.testing.assert_allclose(jitted(both, 301), expected, atol=1e-4)


@pytest.mark.parametrize("kind", ["dense", "sparse", "rows", "columns", "two leaves"])
def test_errors_of_norms_and_inner_products_are_those_of_random_signs(kind):
  """Over 48 draws, relative to the product of norms, sqrt(2 / size) and its root."""
  size, num, shape = 1021, 48, (64, 1024)
  rng = np.random.default_rng(0)
  x = rng.standard_normal((num, *shape))
  if kind == "sparse":
    x *= rng.random(x.shape) < 0.01
  elif kind == "rows":
    x[:] = x[:, :1]
  elif kind == "columns":
    x[:] = x[:, :, :1]
  leaves = np.split(x, 2, axis=1) if kind == "two leaves" else [x]
  s = np.asarray(jitted([jnp.asarray(y, jnp.float32) for y in leaves], size), float)
  x = x.reshape(num, -1)
  norms = np.linalg.norm(x, axis=1)
  error = (s @ s.T - x @ x.T) / np.outer(norms, norms)
  own, other = np.diagonal(error), error[np.triu_indices(num, 1)]
  assert 0.6 < np.sqrt(np.mean(own**2)) / np.sqrt(2 / size) < 1.5
  assert 0.7 < np.sqrt(np.mean(other**2)) / np.sqrt(1 / size) < 1.3
  assert abs(other.mean()) < 0.2 * np.sqrt(1 / size)


def test_equal_numbers_in_different_parameters_have_independent_signs():
  """Inner products of what two parameters contribute have no bias."""
  size, sketches = 1021, []
  zero, x = jnp.zeros((1, 20, 1024)), jnp.asarray(draw(1, [(20, 1024)])[0])
  for place in range(4):
    sketches.append(jitted([x if n == place else zero for n in range(4)], size)[0])
  s = np.stack(sketches)
  cosines = (s @ s.T) / float(jnp.sum(x * x))
  assert np.abs(cosines - np.eye(4)).max() < 5 * np.sqrt(2 / size)


def test_a_single_number_keeps_its_magnitude_exactly():
  grads = [jnp.zeros((3, 50, 70)).at[:, 7, 13].set(jnp.array([2.0, -3.0, 0.5]))]
  found = np.asarray(jitted(grads, 101))
  np.testing.assert_array_equal(np.linalg.norm(found, axis=1), [2.0, 3.0, 0.5])
  assert np.count_nonzero(found) == 3


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("leaf", [0, 1, 2])
def test_what_is_not_finite_stays_with_its_task(bad, leaf):
  grads = draw(3, [(5,), (4000,), (317,)])
  for position in (0, -1):
    broken = list(grads)
    broken[leaf] = grads[leaf].at[1, position].set(bad)
    found, usual = jitted(broken, 301), jitted(grads, 301)
    assert not np.isfinite(found[1]).all()
    np.testing.assert_array_equal(found[::2], usual[::2])


@pytest.mark.parametrize("scale", [2.0**-100, 2.0**50])
def test_a_sketch_scales_with_the_gradients(scale):
  grads = draw(2, [(5,), (4000,)])
  found = jitted([scale * x for x in grads], 301)
  np.testing.assert_array_equal(found, scale * jitted(grads, 301))


def test_derivatives_are_those_of_a_linear_map():
  x, t = draw(2, [(5,), (4000,)]), draw(2, [(5,), (4000,)], seed=1)
  rng = np.random.default_rng(2)
  cotangent = jnp.asarray(rng.standard_normal((2, 301)), jnp.float32)
  value, tangent = jax.jvp(lambda x: jitted(x, 301), (x,), (t,))
  np.testing.assert_array_equal(value, jitted(x, 301))
  np.testing.assert_allclose(tangent, jitted(t, 301), atol=1e-4)
  pulled = jax.grad(lambda x: jnp.sum(cotangent * jitted(x, 301)))(x)
  inner = sum(float(jnp.sum(a * b)) for a, b in zip(pulled, t, strict=True))
  assert inner == pytest.approx(float(jnp.sum(cotangent * tangent)), rel=1e-4)


def test_one_task_at_a_time_gives_the_same():
  grads = draw(3, [(5,), (4000,)])
  expected = jitted(grads, 301)

  def one(x):
    return sketch([y[None] for y in x], 301, jnp.float32)[0]

  for batched in (jax.vmap(one), lambda x: jax.lax.map(one, x)):
    np.testing.assert_allclose(jax.jit(batched)(grads), expected, atol=1e-5)


@pytest.mark.usefixtures("usual_compilation")
@pytest.mark.skipif(jax.default_backend() != "cpu", reason="Measured on CPUs.")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_no_copy_of_large_gradients_is_kept(dtype):
  shapes = [(1000, 1024), (46, 1024), (512,), (512,)]
  grads = [jax.ShapeDtypeStruct((3, *shape), dtype) for shape in shapes]
  compiled = jitted.lower(grads, DEFAULT_SIZE).compile()
  # Some times the sums and the words: 3 and 1 times 65 kB.
  assert compiled.memory_analysis().temp_size_in_bytes < 1.2e6
