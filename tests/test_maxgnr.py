"""Properties of the steps of `maxgnr`."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maxgnr_jax import MaxGNRState, maxgnr, value_and_task_grads
from tests.helpers.examples import (
  default_maxgnr,
  example_params,
  flat,
  follow,
  grads_sequence,
  random_grads,
  rows,
)
from tests.helpers.trees import assert_trees_close, assert_trees_equal

pytestmark = pytest.mark.usefixtures("quick_compilation")
DEFAULT = default_maxgnr()
seeds = st.integers(0, 2**32 - 1)


def last(tx, params, sequence):
  return follow(tx, params, sequence)[-1]


def scaled(sequence, factors):
  def leaf(x):
    shape = (-1, *(1,) * (x.ndim - 1))
    return x * jnp.asarray(factors, x.dtype).reshape(shape)

  return [jax.tree.map(leaf, grads) for grads in sequence]


def test_the_first_step_has_no_noise_and_weights_inverse_to_the_gradient_norms():
  params, grads = example_params(), random_grads(example_params(), 3, 0, [1, 10, 1e-3])
  updates, state = last(DEFAULT, params, [grads])
  inverse = 1 / np.linalg.norm(rows(grads), axis=1)
  weights = inverse / inverse.sum()
  np.testing.assert_allclose(state.weights, weights, rtol=1e-5)
  np.testing.assert_allclose(flat(updates), weights @ rows(grads), rtol=1e-4)
  np.testing.assert_array_equal(state.gnr, np.inf)
  np.testing.assert_array_equal(state.single_task_gnr, np.inf)
  np.testing.assert_array_equal(state.stats.noise_norm, 0)
  assert_trees_equal(state.momentum, grads)
  assert state.count == 1


def test_the_first_step_has_no_noise_where_gradients_are_fused_into_it():
  # XLA may compute a gradient twice in one step, with different rounding.
  tx = default_maxgnr(2)

  def losses(params, x):
    hidden = jnp.tanh(params @ x) + 1.0
    return jnp.stack([jnp.sum(hidden**2), 100 * jnp.mean((hidden - x[0]) ** 2)])

  @jax.jit
  def step(params, state, x):
    _, grads = value_and_task_grads(losses)(params, x)
    return tx.update(grads, state, params)

  params, rng = jnp.ones((3, 4)), np.random.default_rng(0)
  for _ in range(4):
    x = jnp.asarray(rng.normal(size=4), jnp.float32)
    _, state = step(params, tx.init(params), x)
    np.testing.assert_array_equal(state.stats.noise_norm, 0)
    np.testing.assert_array_equal(state.gnr, np.inf)


def test_one_task_gets_its_own_gradient():
  params = example_params()
  sequence = grads_sequence(params, 1, 4)
  for grads, (updates, state) in zip(
    sequence, follow(DEFAULT, params, sequence), strict=True
  ):
    np.testing.assert_array_equal(state.weights, [1])
    assert_trees_equal(updates, jax.tree.map(lambda g: g[0], grads))


def test_weights_for_128_tasks_are_finite_and_sum_to_one():
  params = example_params()
  updates, state = last(DEFAULT, params, grads_sequence(params, 128, 2))
  assert state.weights.shape == (128,)
  np.testing.assert_allclose(np.sum(state.weights), 1, rtol=1e-5)
  chex.assert_tree_all_finite(updates)


@given(seed=seeds, exponent=st.integers(-15, 15))
def test_multiplying_one_loss_does_not_change_the_updates_direction(seed, exponent):
  params = example_params()
  sequence = [random_grads(params, 3, [seed, step]) for step in range(3)]
  expected, _ = last(DEFAULT, params, sequence)
  actual, _ = last(DEFAULT, params, scaled(sequence, [1, 10.0**exponent, 1]))
  expected, actual = flat(expected), flat(actual)
  np.testing.assert_allclose(
    actual / np.linalg.norm(actual), expected / np.linalg.norm(expected), atol=2e-3
  )


@given(seed=seeds, exponent=st.integers(-15, 15))
def test_multiplying_all_losses_does_not_change_the_weights(seed, exponent):
  params = example_params()
  sequence = [random_grads(params, 3, [seed, step]) for step in range(3)]
  expected_updates, expected = last(DEFAULT, params, sequence)
  updates, state = last(DEFAULT, params, scaled(sequence, [10.0**exponent] * 3))
  np.testing.assert_allclose(state.weights, expected.weights, rtol=1e-2)
  np.testing.assert_allclose(state.gnr, expected.gnr, rtol=1e-2)
  np.testing.assert_allclose(
    flat(updates) / 10.0**exponent, flat(expected_updates), rtol=0.05, atol=1e-3
  )


@given(seed=seeds, order=st.permutations(range(3)))
def test_permuting_tasks_permutes_the_weights_and_not_the_update(seed, order):
  params = example_params()
  sequence = [random_grads(params, 3, [seed, step]) for step in range(3)]
  permuted = jax.tree.map(lambda x: x[np.array(order)], sequence)
  expected_updates, expected = last(DEFAULT, params, sequence)
  updates, state = last(DEFAULT, params, permuted)
  np.testing.assert_allclose(
    state.weights, expected.weights[np.array(order)], rtol=1e-2, atol=1e-5
  )
  np.testing.assert_allclose(flat(updates), flat(expected_updates), atol=1e-3)


@pytest.mark.parametrize("task", range(3))
def test_a_task_without_gradient_gets_no_weight_and_changes_no_other_weight(task):
  params = example_params()
  sequence = grads_sequence(params, 3, 4)
  factors = np.ones(3)
  factors[task] = 0
  rest = np.flatnonzero(factors)
  expected_updates, expected = last(
    DEFAULT, params, jax.tree.map(lambda x: x[rest], sequence)
  )
  updates, state = last(DEFAULT, params, scaled(sequence, factors))
  assert state.weights[task] == 0
  assert state.gnr[task] == 0
  assert state.single_task_gnr[task] == 0
  np.testing.assert_allclose(state.weights[rest], expected.weights, rtol=1e-4)
  np.testing.assert_allclose(state.gnr[rest], expected.gnr, rtol=1e-4)
  assert_trees_close(updates, expected_updates, rtol=1e-3, atol=1e-6)


def test_without_any_gradient_all_tasks_are_inactive_and_the_update_is_zero():
  params = example_params()
  sequence = scaled(grads_sequence(params, 3, 2), np.zeros(3))
  updates, state = last(DEFAULT, params, sequence)
  np.testing.assert_array_equal(state.weights, 0)
  np.testing.assert_array_equal(state.zero_count, 2)
  np.testing.assert_array_equal(flat(updates), 0)
  np.testing.assert_array_equal(state.gnr, 0)


def test_a_task_that_starts_late_is_weighted_from_then_on():
  params = example_params()
  sequence = grads_sequence(params, 3, 4)
  late = scaled(sequence[:2], [1, 1, 0]) + sequence[2:]
  weighted = [bool(state.weights[2] > 0) for _, state in follow(DEFAULT, params, late)]
  assert weighted == [False, False, True, True]


@pytest.mark.parametrize("num_tasks", [None, 3])
def test_fields_have_the_documented_shapes_and_dtypes(num_tasks):
  params = example_params()
  tx = default_maxgnr(num_tasks)
  initial = tx.init(params)
  _, state = last(tx, params, [random_grads(params, 3)])
  for s, k in ((initial, num_tasks or 0), (state, 3)):
    assert isinstance(s, MaxGNRState)
    k_sized = s.weights, s.gnr, s.single_task_gnr, *s.stats[:2]
    momentum = jax.tree.map(lambda p, k=k: jnp.zeros((k, *p.shape), p.dtype), params)
    chex.assert_trees_all_equal_shapes_and_dtypes(
      (s.count, k_sized, s.momentum),
      (jnp.zeros((), jnp.int32), (jnp.zeros(k, jnp.float32),) * 5, momentum),
    )
    chex.assert_shape(s.stats.noise_cosine, (k, k))
  chex.assert_trees_all_equal_structs(initial, state)


def test_before_the_first_step_weights_are_equal_and_measurements_zero():
  state = maxgnr(num_tasks=4).init(example_params())
  np.testing.assert_allclose(state.weights, 1 / 4)
  rest = jax.tree.leaves(state._replace(weights=()))
  assert all(not np.any(x) for x in rest)


def test_with_num_tasks_shapes_and_dtypes_never_change():
  params = example_params()
  tx = default_maxgnr(3)
  history = follow(tx, params, grads_sequence(params, 3, 3))
  for _, state in history:
    chex.assert_trees_all_equal_shapes_and_dtypes(state, tx.init(params))


def test_num_tasks_changes_no_result():
  params = example_params()
  sequence = grads_sequence(params, 3, 4)
  given_k = follow(default_maxgnr(3), params, sequence)
  assert_trees_equal(given_k, follow(DEFAULT, params, sequence))


def test_fields_are_read_by_name_from_a_chain():
  params = example_params()
  tx = optax.chain(DEFAULT, optax.sgd(1e-3, momentum=0.9))
  _, state = last(tx, params, grads_sequence(params, 3, 2))
  for name in ("momentum", "weights", "gnr", "single_task_gnr", "stats"):
    assert optax.tree.get(state, name) is getattr(state[0], name)
  assert optax.tree.get(state, "noise_norm") is state[0].stats.noise_norm


def test_the_states_buffers_can_be_donated():
  params = example_params()
  tx = default_maxgnr(3)
  sequence = grads_sequence(params, 3, 3)
  step = jax.jit(tx.update, donate_argnums=1)
  state = tx.init(params)
  for grads in sequence:
    given_away = state
    updates, state = step(grads, state, params)
    assert all(x.is_deleted() for x in jax.tree.leaves(given_away.momentum))
  expected, _ = last(tx, params, sequence)
  assert_trees_close(updates, expected)


def test_updates_without_params_are_those_with_params():
  params = example_params()
  tx = default_maxgnr(3)
  grads = random_grads(params, 3)
  expected, _ = jax.jit(tx.update)(grads, tx.init(params), params)
  updates, _ = jax.jit(tx.update)(grads, tx.init(params))
  assert_trees_equal(updates, expected)


def test_all_sources_of_task_gradients_give_the_same_updates():
  targets = jnp.array([[1.0, -2.0, 0.5], [30.0, 10.0, -20.0]])
  params = {"w": jnp.array([0.5, 1.0, -1.0])}

  def loss(params, target):
    return jnp.sum((params["w"] - target) ** 2)

  def losses(params):
    return jnp.stack([loss(params, target) for target in targets])

  sources = (
    jax.vmap(jax.grad(loss), in_axes=(None, 0))(params, targets),
    jax.jacrev(losses)(params),
    value_and_task_grads(losses)(params)[1],
  )
  results = [last(DEFAULT, params, [grads] * 2) for grads in sources]
  assert_trees_close(results[1], results[0])
  assert_trees_close(results[2], results[0])


def test_the_rounding_error_of_a_constant_gradient_does_not_count_as_noise():
  rng = np.random.default_rng(0)
  constant = rng.normal(size=200)
  tx = default_maxgnr()
  params = jnp.zeros(200)
  sequence = [
    jnp.asarray(
      np.stack(
        [constant * (1 if step < 10 else 1.37), constant + rng.normal(size=200)]
      ),
      jnp.float32,
    )
    for step in range(300)
  ]
  for _, state in follow(tx, params, sequence)[-50:]:
    inverse = 1 / np.asarray(state.stats.gradient_norm, np.float64)
    np.testing.assert_allclose(state.weights, inverse / inverse.sum(), rtol=1e-4)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_task_recovers_after_one_non_finite_step(bad):
  params = example_params()
  sequence = grads_sequence(params, 3, 4)
  sequence[1] = jax.tree.map(lambda g: g.at[1].set(bad), sequence[1])
  history = follow(default_maxgnr(), params, sequence)
  for updates, state in history[2:]:
    chex.assert_tree_all_finite(updates)
    assert np.all(np.asarray(state.weights) > 0)
