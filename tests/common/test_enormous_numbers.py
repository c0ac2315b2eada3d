"""Numbers that are finite but enormous: counted, not remembered."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maxgnr_jax import aggregators, maxgnr
from tests.common.test_zero_gradients import counts, without_zero_count
from tests.helpers.methods import METHODS, make
from tests.helpers.trees import assert_trees_equal

pytestmark = pytest.mark.usefixtures("quick_compilation")
STEPS, SPIKE = 6, 2
# Methods of losses, for which an enormous loss is not finite either.
OF_LOSSES = [
  *("uncertainty", "imtl_l", "slaw", "famo", "dwa", "gls", "stch", "bmtl"),
  *("gradnorm", "db_mtl"),
]


def run(tx, history, losses, masks):
  state, update, found = tx.init(jnp.zeros(history.shape[2])), jax.jit(tx.update), []
  for grads, now, mask in zip(history, losses, masks, strict=True):
    grads = jnp.asarray(grads, jnp.float32)
    values = {"losses": jnp.asarray(now, jnp.float32), "flat_grads": grads}
    updates, state = update(grads, state, task_mask=jnp.asarray(mask), **values)
    found.append(updates)
  return found, state


def ordinary(seed=0):
  """Three tasks' gradients, losses and masks in all steps, and masks for the spike."""
  rng = np.random.default_rng(seed)
  masks = np.ones((STEPS, 3), bool)
  without = masks.copy()
  without[SPIKE, 1] = False
  return rng.normal(size=(STEPS, 3, 6)), rng.uniform(1, 2, (STEPS, 3)), masks, without


def without_count(state):
  if hasattr(state, "plain"):
    return [without_count(part) for part in state]
  return without_zero_count(state)._replace(notfinite_count=())


def assert_left_out(tx, spiked, ordinary):
  """The spiked task is absent from one step, and counted."""
  found, expected = run(tx, *spiked), run(tx, *ordinary)
  assert_trees_equal(found[0], expected[0])
  assert_trees_equal(without_count(found[1]), without_count(expected[1]))
  np.testing.assert_array_equal(counts(found[1], "notfinite_count"), [0, 1, 0])


@pytest.mark.parametrize("exponent", [20, 30])
@pytest.mark.parametrize("name", METHODS)
def test_a_gradient_whose_square_overflows_is_left_out_of_the_step(name, exponent):
  if name == "trimmed_mean":
    pytest.skip("it drops such numbers itself, and remembers nothing")
  history, losses, masks, without = ordinary()
  spiked = history.copy()
  spiked[SPIKE, 1] *= 10.0**exponent
  tx = make(METHODS[name], 3)
  assert_left_out(tx, (spiked, losses, masks), (history, losses, without))


@pytest.mark.parametrize("name", OF_LOSSES)
def test_a_loss_whose_square_overflows_is_left_out_of_the_step(name):
  history, losses, masks, without = ordinary()
  spiked = losses.copy()
  spiked[SPIKE, 1] = 1e30
  tx = make(METHODS[name], 3)
  assert_left_out(tx, (history, spiked, masks), (history, losses, without))


def numbers_are_finite(tree):
  floats = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]
  return all(bool(jnp.all(jnp.isfinite(x))) for x in floats)


@pytest.mark.parametrize("name", [name for name in METHODS if "maxgnr" not in name])
@settings(max_examples=8)
@given(
  seed=st.integers(0, 2**32 - 1),
  exponents=st.lists(st.integers(-38, 38), min_size=STEPS, max_size=STEPS),
  losses=st.lists(st.integers(-38, 38), min_size=STEPS, max_size=STEPS),
)
def test_no_magnitude_leaves_an_infinite_update_or_state(name, seed, exponents, losses):
  history, values, masks, _ = ordinary(seed)
  history[:, 1] *= 10.0 ** np.array(exponents)[:, None]
  values[:, 1] *= 10.0 ** np.array(losses)
  values = np.minimum(values, 3e38)
  history = np.clip(history, -3e38, 3e38)
  tx = make(METHODS[name], 3)
  assert numbers_are_finite(run(tx, history, values, masks))


def test_sums_of_squares_that_fit_alone_do_not_overflow_together():
  tx = aggregators.excess_mtl(num_tasks=2)
  grads = np.full((6, 2, 1), 1.5e19)
  updates, state = run(tx, grads, np.ones((6, 2)), np.ones((6, 2), bool))
  np.testing.assert_array_equal(state.notfinite_count, 0)
  assert numbers_are_finite((updates, state))


@pytest.mark.parametrize("name", ["maxgnr", "mgda"])
@pytest.mark.parametrize(("tiny", "large"), [(1e-25, 1), (1e-30, 1e-12), (1e-12, 1e10)])
def test_tiny_numbers_beside_ordinary_ones_do_not_matter(name, tiny, large):
  """Of two orthogonal gradients the norms alone decide, wherever they are."""
  grads = jnp.full((2, 100_000), tiny).at[0, 12_345].set(3 * large)
  grads = grads.at[1, 777].set(4 * large)
  tx = maxgnr(num_tasks=2) if name == "maxgnr" else aggregators.mgda(num_tasks=2)
  _, state = jax.jit(tx.update)(grads, tx.init(grads[0]))
  power = 1 if name == "maxgnr" else 2
  expected = np.array([4.0, 3.0]) ** power
  np.testing.assert_allclose(state.weights, expected / expected.sum(), rtol=1e-5)
  np.testing.assert_array_equal(state.notfinite_count, 0)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", METHODS)
def test_float64_parameters_take_float32_gradients_of_any_scale(name):
  scales = np.array([[1e-30], [1.0], [1e30]])
  history = np.random.default_rng(0).normal(size=(3, 3, 6)) * scales
  losses = jnp.array([1.0, 1.1, 1.2])
  tx = make(METHODS[name], 3)

  def last_update(dtype):
    params = jnp.zeros(6, jnp.float64)
    state = tx.init(params)
    for grads in np.float32(history):
      grads = jnp.asarray(grads, dtype)
      updates, state = tx.update(grads, state, params, losses=losses)
    assert numbers_are_finite((updates, state))
    return updates

  found, expected = last_update(jnp.float32), last_update(jnp.float64)
  if name != "gradient_dropout":  # whose random numbers depend on the dtype
    np.testing.assert_allclose(found, expected, rtol=1e-4)
