"""Microbatches against the whole batch and against gradients in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maxgnr_jax import maxgnr, value_and_task_grads
from tests.helpers.trees import assert_trees_close

pytestmark = pytest.mark.usefixtures("quick_compilation")
ROWS, SIZE, NUM_TASKS = 12, 3, 3
PARAMS = {"trunk": jnp.ones((SIZE,)), "heads": jnp.array([0.5, -1.0, 2.0])}


def losses(params, batch):
  hidden = jnp.matmul(batch["x"], params["trunk"], precision="highest")
  errors = hidden[:, None] * params["heads"][None] - batch["y"]
  return jnp.mean(errors**2, axis=0)


def make_batch(seed, rows=ROWS):
  rng = np.random.default_rng(seed)
  drawn = {"x": rng.normal(size=(rows, SIZE)), "y": rng.normal(size=(rows, NUM_TASKS))}
  return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), drawn)


def by_hand(params, batch):
  """Losses and stacked gradients by formulas, in float64."""
  params, batch = jax.tree.map(lambda x: np.asarray(x, np.float64), (params, batch))
  hidden = batch["x"] @ params["trunk"]
  errors = hidden[:, None] * params["heads"] - batch["y"]
  trunk = 2 * params["heads"][:, None] * (errors.T @ batch["x"]) / len(hidden)
  heads = np.diag(2 * hidden @ errors / len(hidden))
  return np.mean(errors**2, axis=0), {"trunk": trunk, "heads": heads}


@functools.cache
def compiled(microbatches, tasks_at_once=None):
  return jax.jit(
    value_and_task_grads(losses, microbatches=microbatches, tasks_at_once=tasks_at_once)
  )


@given(
  st.integers(0, 2**16), st.sampled_from([1, 2, 3, 4, 6, 12]), st.sampled_from([1, 3])
)
def test_the_mean_over_microbatches_equals_the_mean_over_the_batch(
  seed, microbatches, at_once
):
  rng = np.random.default_rng(seed)
  params = jax.tree.map(lambda p: p * jnp.float32(rng.normal()), PARAMS)
  batch = make_batch(seed)
  values, grads = compiled(microbatches, at_once)(params, batch)
  expected_values, expected_grads = by_hand(params, batch)
  np.testing.assert_allclose(values, expected_values, rtol=1e-5)
  for name, expected in expected_grads.items():
    assert grads[name].dtype == PARAMS[name].dtype
    size = np.max(np.abs(expected))
    np.testing.assert_allclose(grads[name], expected, rtol=1e-5, atol=1e-5 * size)


def test_the_aggregator_sees_the_mean_over_microbatches_once():
  tx, batch = maxgnr(num_tasks=NUM_TASKS), make_batch(0)
  history = []
  for microbatches in (None, 4):
    _, grads = compiled(microbatches)(PARAMS, batch)
    history.append(tx.update(grads, tx.init(PARAMS), PARAMS))
  assert_trees_close(history[1], history[0], rtol=1e-5, atol=1e-6)
  assert history[1][1].count == 1


def test_only_the_activations_of_one_microbatch_are_held(usual_compilation):
  rows, width = 4096, 64
  params = {"in": jnp.ones((2, width)), "out": jnp.ones((width, 2))}

  def fun(params, x):
    hidden = jnp.tanh(jnp.tanh(x @ params["in"]) @ params["out"])
    return jnp.mean(hidden**2, axis=0)

  def temporaries(microbatches):
    grads = value_and_task_grads(fun, microbatches=microbatches)
    done = jax.jit(grads).lower(params, jnp.ones((rows, 2))).compile()
    return done.memory_analysis().temp_size_in_bytes

  whole, four, sixteen = (temporaries(n) for n in (None, 4, 16))
  activations = 4 * rows * width  # bytes of one layer's
  assert whole > activations
  # The sums of gradients do not shrink with the microbatches.
  sums = 4 * 2 * sum(p.size for p in jax.tree.leaves(params))
  assert four - 3 * sums < whole / 3
  assert sixteen - 3 * sums < whole / 12


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_narrow_gradients_and_losses_are_added_up_in_float32(dtype):
  parts = 4096  # a plain sum of ones would stop at 256 or 2048 in these dtypes

  def fun(w, x):
    return jnp.stack([jnp.mean(w * x), jnp.mean(w * x) * jnp.asarray(3.0, dtype)])

  grads = jax.jit(value_and_task_grads(fun, microbatches=parts))
  values, grads = grads(jnp.ones((), dtype), jnp.ones((parts,), dtype))
  assert (values.dtype, grads.dtype) == (dtype, dtype)
  np.testing.assert_array_equal(np.float32(values), [1, 3])
  np.testing.assert_array_equal(np.float32(grads), [1, 3])


def test_microbatches_keep_float64(float64):
  batch = jax.tree.map(lambda x: np.asarray(x, np.float64), make_batch(0))
  params = jax.tree.map(lambda p: jnp.asarray(p, jnp.float64), PARAMS)
  values, grads = value_and_task_grads(losses, microbatches=3)(params, batch)
  expected_values, expected_grads = by_hand(params, batch)
  np.testing.assert_allclose(values, expected_values, rtol=1e-14)
  for name, expected in expected_grads.items():
    np.testing.assert_allclose(grads[name], expected, rtol=1e-13, atol=1e-13)


def test_microbatches_take_every_nth_row_and_stack_auxiliary_data():
  def fun(w, x, y):
    return (jnp.mean(x) * w, jnp.mean(y) * w), {"x": x, "size": y.size}

  x, y = (
    jnp.arange(6.0),
    jnp.arange(9.0),
  )  # arguments may have different numbers of rows
  grads = value_and_task_grads(fun, has_aux=True, microbatches=3, batch_argnums=(1, -1))
  (values, aux), grads = grads(jnp.float32(1), x, y)
  np.testing.assert_array_equal(aux["x"], [[0, 3], [1, 4], [2, 5]])
  np.testing.assert_array_equal(aux["size"], [3, 3, 3])
  np.testing.assert_allclose(values, [2.5, 4.0])
  np.testing.assert_allclose(grads, [2.5, 4.0])


def test_each_microbatch_may_have_its_own_random_key():
  def fun(w, x, keys):
    noise = jax.random.normal(keys[0], x.shape)
    return (jnp.sum(w * x * noise), jnp.sum(w)), noise

  keys = jax.random.split(jax.random.key(0), 2)
  grads = value_and_task_grads(fun, has_aux=True, microbatches=2, batch_argnums=(1, 2))
  (_, noise), _ = grads(jnp.float32(1), jnp.ones(4), keys)
  expected = [jax.random.normal(key, (2,)) for key in keys]
  np.testing.assert_array_equal(noise, expected)


def test_microbatches_work_with_dicts_several_arguments_and_keywords():
  def fun(first, batch, second, mode, *, scale):
    assert mode == "sum"
    errors = scale * (batch["x"] @ first) * second["w"] - batch["y"]
    return {"b": jnp.mean(errors**2), "a": jnp.mean(errors[:, 0])}

  args = (jnp.ones((SIZE, NUM_TASKS)), make_batch(1), {"w": jnp.float32(2)}, "sum")
  whole, parts = (
    value_and_task_grads(fun, (0, 2), microbatches=n)(*args, scale=3.0)
    for n in (None, 4)
  )
  assert_trees_close(parts, whole, rtol=1e-5, atol=1e-5)


def test_microbatches_in_a_scan_with_an_aggregator_and_donated_state():
  tx = maxgnr(num_tasks=NUM_TASKS)
  batches = jax.tree.map(lambda *x: jnp.stack(x), *[make_batch(s) for s in range(3)])

  def train(microbatches):
    def step(state, batch):
      _, grads = value_and_task_grads(losses, microbatches=microbatches)(PARAMS, batch)
      updates, state = tx.update(grads, state, PARAMS)
      return state, updates

    return jax.jit(lambda state: jax.lax.scan(step, state, batches), donate_argnums=0)(
      tx.init(PARAMS)
    )

  assert_trees_close(train(3)[1], train(None)[1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("value", [0, -1, 1.5, "4"])
def test_microbatches_must_be_an_integer_of_at_least_one(value):
  with pytest.raises(ValueError, match="`microbatches` must be an integer of at least"):
    value_and_task_grads(losses, microbatches=value)


def test_a_batch_that_does_not_divide_raises_an_error_with_its_shape():
  message = r"divide into 5 microbatches .* the leaf argument 1/x of shape \(12, 3\)"
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(compiled(5), PARAMS, make_batch(0))


def test_a_scalar_in_a_batch_raises_an_error_with_its_shape():
  batch = make_batch(0) | {"scale": 2.0}
  message = r"argument 1/scale of shape \(\).* has no rows .*`batch_argnums`"
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(compiled(4), PARAMS, batch)


@pytest.mark.parametrize("batch_argnums", [2, (1, 2), 0, -2, ()])
def test_batch_argnums_must_name_other_positional_arguments(batch_argnums):
  grads = value_and_task_grads(losses, microbatches=4, batch_argnums=batch_argnums)
  with pytest.raises(TypeError, match="`batch_argnums` must name the positional"):
    jax.eval_shape(grads, PARAMS, make_batch(0))


def test_a_batch_without_arrays_is_refused():
  with pytest.raises(ValueError, match="`batch_argnums` must name arguments that hold"):
    jax.eval_shape(compiled(4), PARAMS, {"x": None})
