"""Numbers that are finite but enormous: counted, not remembered."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maxgnr_jax import aggregators, maxgnr
from tests.helpers.kinds import of_each_kind
from tests.helpers.methods import METHODS, make, transformation
from tests.helpers.runs import counts, run, without_counts
from tests.helpers.trees import assert_trees_close

pytestmark = pytest.mark.usefixtures("quick_compilation")
STEPS, SPIKE = 6, 2
# Methods of losses, for which an enormous loss is not finite either.
OF_LOSSES = [
  *("uncertainty", "imtl_l", "slaw", "famo", "dwa", "gls", "stch", "bmtl"),
  *("gradnorm", "db_mtl", "igb", "go4align"),
]


def ordinary(seed=0):
  """Three tasks' gradients and losses in all steps."""
  rng = np.random.default_rng(seed)
  return rng.normal(size=(STEPS, 3, 6)), rng.uniform(1, 2, (STEPS, 3))


def assert_left_out(tx, grads, losses, spiked_grads, spiked_losses):
  """The spiked task is absent from one step, and counted."""
  masks = np.ones((STEPS, 3), bool)
  masks[SPIKE, 1] = False
  found = run(tx, spiked_grads, losses=spiked_losses)
  expected = run(tx, grads, masks, losses)
  assert_trees_close(found[0], expected[0], rtol=1e-5)
  states = (without_counts(state, "notfinite_count") for _, state in (found, expected))
  assert_trees_close(*states, rtol=1e-5)
  np.testing.assert_array_equal(counts(found[1], "notfinite_count"), [0, 1, 0])


@pytest.mark.parametrize("exponent", [20, 30])
@pytest.mark.parametrize("name", of_each_kind(METHODS))
def test_a_gradient_whose_square_overflows_is_left_out_of_the_step(name, exponent):
  if name == "trimmed_mean":
    pytest.skip("it drops such numbers itself, and remembers nothing")
  grads, losses = ordinary()
  spiked = grads.copy()
  spiked[SPIKE, 1] *= 10.0**exponent
  assert_left_out(transformation(name), grads, losses, spiked, losses)


@pytest.mark.parametrize("name", OF_LOSSES)
def test_a_loss_whose_square_overflows_is_left_out_of_the_step(name):
  grads, losses = ordinary()
  spiked = losses.copy()
  spiked[SPIKE, 1] = 1e30
  assert_left_out(transformation(name), grads, losses, grads, spiked)


def numbers_are_finite(tree):
  floats = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]
  return all(bool(jnp.all(jnp.isfinite(x))) for x in floats)


@pytest.mark.parametrize("name", [name for name in METHODS if "maxgnr" not in name])
def test_no_magnitude_leaves_an_infinite_update_or_state(name):
  """`maxgnr` is aside because its ratio is infinite where there is no noise."""
  rng = np.random.default_rng(0)
  for seed in range(20):
    grads, losses = ordinary(seed)
    grads[:, 1] *= 10.0 ** rng.integers(-38, 38, (STEPS, 1))
    losses[:, 1] *= 10.0 ** rng.integers(-38, 38, STEPS)
    assert numbers_are_finite(run(transformation(name), grads, losses=losses))


def test_sums_of_squares_that_fit_alone_do_not_overflow_together():
  tx = aggregators.excess_mtl(num_tasks=2)
  grads = np.full((6, 2, 1), 1.5e19)
  updates, state = run(tx, grads)
  np.testing.assert_array_equal(state.notfinite_count, 0)
  assert numbers_are_finite((updates, state))


@pytest.mark.parametrize("name", ["maxgnr", "mgda"])
@pytest.mark.parametrize(("tiny", "large"), [(1e-25, 1), (1e-30, 1e-12), (1e-12, 1e10)])
def test_tiny_numbers_beside_ordinary_ones_do_not_matter(name, tiny, large):
  """Weights of orthogonal gradients depend on the norms: here on one large number each.

  It is in a place that the sample, from which magnitudes are estimated, leaves out.
  """
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
def test_a_step_of_float64_parameters_and_float32_gradients_can_be_traced(name):
  """Dtypes are not promoted here, and the state keeps its own."""
  tx, params = make(METHODS[name], 3), jnp.zeros(6, jnp.float64)
  state = tx.init(params)
  step = functools.partial(tx.update, losses=jnp.ones(3))
  updates, after = jax.eval_shape(step, jnp.ones((3, 6), jnp.float32), state, params)
  chex.assert_trees_all_equal_shapes_and_dtypes(after, state)
  chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", of_each_kind(METHODS))
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
