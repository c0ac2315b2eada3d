"""Every method that measures a Gramian can measure that of sketches."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from maxgnr_jax import aggregators, maxgnr
from tests.helpers.compilations import left_by
from tests.helpers.examples import flat, rows
from tests.helpers.kinds import of_each_kind
from tests.helpers.trees import assert_trees_close
from tests.stacked.sketch_reference import reference

pytestmark = pytest.mark.usefixtures("quick_compilation")
NUM_TASKS, SIZE = 4, 301
PARAMS = {"bias": jnp.zeros(64), "kernel": jnp.zeros((40, 64))}
SGD = optax.sgd(0.1)
FACTORIES = {
  "aligned_mtl": aggregators.aligned_mtl,
  "cagrad": aggregators.cagrad,
  "config": aggregators.config,
  "conicgrad": aggregators.conicgrad,
  "dibs_mtl": functools.partial(aggregators.dibs_mtl, 0.1),
  "dualproj": aggregators.dualproj,
  "fairgrad": functools.partial(aggregators.fairgrad, 2.0),
  "gradient_norm_scaling": aggregators.gradient_norm_scaling,
  "gradnorm": functools.partial(aggregators.gradnorm, optimizer=SGD),
  "gradvac": aggregators.gradvac,
  "imtl_g": aggregators.imtl_g,
  "krum": aggregators.krum,
  "mgda": aggregators.mgda,
  "modo": functools.partial(aggregators.modo, 1e-4),
  "nash_mtl": aggregators.nash_mtl,
  "ngdiff": functools.partial(aggregators.ngdiff, [1, 1, 1, -1]),
  "ntkmtl": aggregators.ntkmtl,
  "pcgrad": aggregators.pcgrad,
  "sdmgrad": functools.partial(aggregators.sdmgrad, learning_rate=0.1),
  "upgrad": aggregators.upgrad,
}
# Their weights do not jump, and they are not so near to equal ones in a first step that
# nothing could be seen.
CONTINUOUS = sorted(set(FACTORIES) - {"gradnorm", "krum"})
ERROR = np.sqrt(NUM_TASKS / SIZE)
LOSSES = jnp.array([1.0, 2.0, 0.5, 1.5])
ALL = np.ones(NUM_TASKS, bool)


@functools.cache
def compiled(name):
  tx = FACTORIES[name](num_tasks=NUM_TASKS, sketch=SIZE)

  @jax.jit
  def first_step(grads, mask):
    state = tx.init(jax.tree.map(lambda x: x[0], grads))
    return tx.update(grads, state, losses=LOSSES, task_mask=mask)

  return first_step


@functools.cache
def jacobian(kind="independent"):
  """Gradients [K, D]; if opposed, a weighted sum of them nearly vanishes."""
  rng = np.random.default_rng(0)
  drawn = rng.normal(size=(NUM_TASKS, 41 * 64)) + 0.3 * rng.normal(size=41 * 64)
  if kind == "opposed":
    weights = np.array([[0.5, 0.6, 0.4, 0.5]]) / np.sqrt(1.02)
    drawn -= (1 - 1e-2) * weights.T @ weights @ drawn
  return drawn * np.array([[1.0], [3.0], [0.5], [2.0]])


def as_tree(matrix, dtype=jnp.float32):
  bias, kernel = np.split(np.asarray(matrix), [64], axis=1)
  return {
    "bias": jnp.asarray(bias, dtype),
    "kernel": jnp.asarray(kernel.reshape(-1, 40, 64), dtype),
  }


def with_products(gramian):
  """Gradients with these inner products, of so few numbers that sketches lose nothing.

  At the end of a parameter no two numbers fall in the same bucket.
  """
  matrix = np.zeros((NUM_TASKS, 41 * 64))
  matrix[:, -NUM_TASKS:] = np.linalg.cholesky(gramian)
  return as_tree(matrix)


@functools.cache
def gramian_of_sketches():
  """As the definition of the sketch has it, in float64."""
  sketches = reference(jax.tree.leaves(as_tree(jacobian())), SIZE)
  return sketches @ sketches.T


@pytest.mark.parametrize("name", of_each_kind(FACTORIES))
def test_weights_are_those_of_the_sketches_gramian(name):
  updates, state = compiled(name)(as_tree(jacobian()), ALL)
  _, expected = compiled(name)(with_products(gramian_of_sketches()), ALL)
  assert_trees_close(state.memory, expected.memory, rtol=2e-3, atol=1e-5)
  np.testing.assert_allclose(state.weights, expected.weights, rtol=2e-3, atol=1e-5)
  combined = np.asarray(state.weights, np.float64) @ rows(as_tree(jacobian()))
  np.testing.assert_allclose(flat(updates), combined, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["gradnorm", "gradvac", "mgda", "modo"])
def test_inactive_tasks_change_nothing(name):
  """A task may be masked, or have a gradient that is not finite, or none."""
  mask = np.array([True, True, False, True])
  expected, state = compiled(name)(as_tree(jacobian()), mask)
  assert state.weights[2] == 0
  for value, count in ((np.nan, "notfinite_count"), (0.0, "zero_count")):
    broken = jacobian().copy()
    broken[2] = value
    found, state = compiled(name)(as_tree(broken), ALL)
    assert_trees_close(found, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(getattr(state, count), [0, 0, 1, 0])
    np.testing.assert_array_equal(state.task_count, mask)


@pytest.mark.parametrize("kind", ["independent", "opposed"])
@pytest.mark.parametrize("name", of_each_kind(CONTINUOUS))
def test_an_update_moves_by_the_relative_error_of_sketches(name, kind):
  """Also where a combination of gradients is a hundred times shorter than they are:

  the length of every combination is kept to about sqrt(K / size) of itself.
  """
  if name == "sdmgrad" and kind == "opposed":
    pytest.skip("20 steps of its loop are too few to get near its optimum")
  matrix = jacobian(kind)
  found = flat(compiled(name)(as_tree(matrix), ALL)[0])
  weights = compiled(name)(with_products(matrix @ matrix.T), ALL)[1].weights
  exact = np.asarray(weights, np.float64) @ matrix
  # Methods that weigh by norms alone keep what the weighted gradients have in length.
  scale = np.linalg.norm(exact)
  if name in ("dibs_mtl", "gradient_norm_scaling", "modo", "ngdiff", "ntkmtl"):
    scale = np.abs(weights) @ np.linalg.norm(matrix, axis=1)
  assert np.linalg.norm(found - exact) < 2.5 * ERROR * scale


def test_a_method_of_ones_own_sees_the_gramian_of_sketches():
  tx = aggregators.gramian_method(lambda gramian: gramian[0], sketch=SIZE)
  grads = as_tree(jacobian())
  _, state = tx.update(grads, tx.init(PARAMS), PARAMS)
  np.testing.assert_allclose(state.weights, gramian_of_sketches()[0], rtol=1e-5)


def test_gradients_of_two_batches_are_both_sketched():
  """With sketches of more buckets than numbers nothing is lost."""
  rng = np.random.default_rng(0)
  grads, others = (jnp.asarray(rng.normal(size=(3, 50)), jnp.float32) for _ in range(2))

  @jax.jit
  def both():
    exact, sketched = (aggregators.modo(0.02, sketch=size) for size in (None, 101))
    return [
      tx.update(grads, tx.init(jnp.zeros(50)), independent_grads=others)
      for tx in (exact, sketched)
    ]

  assert_trees_close(*both(), rtol=1e-4, atol=1e-5)


def test_bfloat16_gradients_are_added_up_in_float32():
  grads = as_tree(jacobian(), jnp.bfloat16)
  updates, state = compiled("ngdiff")(grads, ALL)
  wide = jax.tree.map(lambda x: x.astype(jnp.float32), grads)
  _, expected = compiled("ngdiff")(wide, ALL)
  assert updates["kernel"].dtype == jnp.bfloat16
  np.testing.assert_allclose(state.weights, expected.weights, rtol=1e-5)


def test_each_group_is_sketched_as_if_it_were_all():
  tx = aggregators.gradient_norm_scaling(groups="parameter", sketch=SIZE)
  alone = aggregators.gradient_norm_scaling(sketch=SIZE)
  grads = as_tree(jacobian())
  updates, state = jax.jit(tx.update)(grads, tx.init(PARAMS), PARAMS)
  for number, label in enumerate(sorted(PARAMS)):
    expected, one = alone.update(grads[label], alone.init(PARAMS[label]), PARAMS[label])
    np.testing.assert_allclose(state.weights[number], one.weights, rtol=1e-5)
    np.testing.assert_allclose(updates[label], expected, rtol=1e-4, atol=1e-5)


def test_without_num_tasks_the_result_is_the_same():
  tx = aggregators.gradient_norm_scaling(sketch=SIZE)
  found = jax.jit(tx.update)(as_tree(jacobian()), tx.init(PARAMS), PARAMS)
  expected = compiled("gradient_norm_scaling")(as_tree(jacobian()), ALL)
  np.testing.assert_allclose(found[1].weights, expected[1].weights, rtol=1e-5)


@pytest.mark.parametrize(
  ("name", "sketch"),
  [*zip(FACTORIES, itertools.cycle([0, 1, 1000, 2**16, 2**16 + 1, 3.5, "x"]))],
)
def test_another_size_raises_an_error_that_says_what_it_must_be(name, sketch):
  with pytest.raises(ValueError, match=r"`sketch` must be .*integer.*got "):
    FACTORIES[name](sketch=sketch)


def test_true_is_the_default_size_and_false_is_none():
  def state_of(sketch):
    return maxgnr(num_tasks=2, sketch=sketch).init(jnp.zeros(3))

  assert state_of(True).momentum.shape == (2, 16_381)
  assert state_of(False).momentum.shape == (2, 3)


def test_methods_that_measure_nothing_have_no_such_argument():
  with pytest.raises(TypeError, match="unexpected keyword argument 'sketch'"):
    aggregators.equal_weights(sketch=True)


def test_under_inject_hyperparams_a_size_is_static():
  """Steps without `jax.jit` are compiled once then, also where c differs."""
  grads = jnp.asarray(jacobian()[:3], jnp.float32)
  injected = optax.inject_hyperparams(
    aggregators.cagrad, static_args=("num_tasks", "sketch")
  )
  tx = injected(c=lambda step: jnp.where(step < 1, 0.4, 0.5), num_tasks=3, sketch=SIZE)
  state = tx.init(grads[0])
  _, state = tx.update(grads, state)
  first = state.inner_state.weights
  compilations, *_ = left_by(lambda: tx.update(grads, state), 2)
  assert compilations == 0
  _, state = tx.update(grads, state)
  assert np.abs(state.inner_state.weights - first).max() > 1e-3


def test_under_inject_hyperparams_a_traced_size_raises_an_error():
  tx = optax.inject_hyperparams(maxgnr)(gamma=0.5, sketch=SIZE)
  with pytest.raises(TypeError, match=r'`sketch` must be known.*static_args=\("sketch'):
    jax.eval_shape(tx.init, jnp.ones(3))
