"""Updates that are as long as the mean of the gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maxgnr_jax import aggregators, maxgnr
from maxgnr_jax.aggregators._length import as_long_as_the_mean
from tests.helpers.examples import task_gradients

pytestmark = pytest.mark.usefixtures("quick_compilation")
SEEDS = st.integers(0, 2**32 - 1)


@given(SEEDS, st.integers(1, 6))
def test_the_sum_is_as_long_as_the_mean(seed, tasks):
  grads = task_gradients(seed, tasks, decades=6)
  rng = np.random.default_rng(seed)
  weights, active = rng.uniform(0, 1, tasks), rng.uniform(size=tasks) < 0.8
  active[rng.integers(tasks)] = True
  weights *= active
  gramian = np.where(active[:, None] & active[None, :], grads @ grads.T, np.nan)
  scaled = jax.jit(as_long_as_the_mean)(
    jnp.asarray(weights, jnp.float32), jnp.asarray(gramian, jnp.float32), active
  )
  mean = np.linalg.norm(grads[active].mean(axis=0))
  np.testing.assert_allclose(np.linalg.norm(scaled @ grads), mean, rtol=1e-2)
  factor = scaled[active] / weights[active]
  np.testing.assert_allclose(factor, factor.mean(), rtol=1e-5)


def test_where_gradients_cancel_the_length_counts_as_a_thousandth():
  gramian = jnp.array([[1.0, -1.0], [-1.0, 1.0]])
  active = jnp.ones(2, bool)
  scaled = as_long_as_the_mean(jnp.array([0.5, 0.5]), gramian, active)
  np.testing.assert_allclose(scaled, [0.5, 0.5], rtol=1e-5)
  scaled = as_long_as_the_mean(jnp.array([1.0, 0.0]), gramian, active)
  assert 0 < scaled[0] < 2e-3
  opposed = jnp.array([[1.0, -0.5], [-0.5, 0.25]])  # the mean is not zero
  scaled = as_long_as_the_mean(jnp.array([1.0, 2.0]), opposed, active)
  assert 1 < scaled[0] < 1e3


@pytest.mark.parametrize(
  "gramian", [jnp.zeros((2, 2)), jnp.diag(jnp.array([0.0, 4.0]))]
)
def test_an_update_of_zero_stays(gramian):
  weights = jnp.array([1.0, 0.0])
  scaled = as_long_as_the_mean(weights, gramian, jnp.ones(2, bool))
  np.testing.assert_array_equal(scaled, weights)


@pytest.mark.parametrize(
  "tx",
  [
    maxgnr(num_tasks=3, rescale="mean"),
    maxgnr(num_tasks=3, rescale="mean", sketch=33),
    maxgnr(num_tasks=3, rescale="mean", groups="parameter"),
    aggregators.imtl_g(num_tasks=3, rescale="mean"),
    aggregators.uncertainty(num_tasks=3, rescale="mean"),
  ],
  ids=["maxgnr", "sketch", "groups", "imtl_g", "uncertainty"],
)
def test_updates_are_as_long_as_the_mean(tx, standard_promotion):
  params, rng = {"a": jnp.zeros(6), "b": jnp.zeros((2, 3))}, np.random.default_rng(0)
  state = tx.init(params)
  for _ in range(3):
    scale = np.array([1e-6, 1.0, 1e6])
    grads = {
      name: jnp.asarray(
        rng.normal(size=(3, *p.shape)) * scale.reshape(3, *(1,) * p.ndim), jnp.float32
      )
      for name, p in params.items()
    }
    updates, state = tx.update(grads, state, params, losses=jnp.ones(3))
    parts = [["a"], ["b"]] if state.groups else [["a", "b"]]
    for names in parts:
      update = np.concatenate([updates[name].ravel() for name in names])
      mean = np.concatenate([grads[name].mean(axis=0).ravel() for name in names])
      lengths = np.linalg.norm(update), np.linalg.norm(mean)
      np.testing.assert_allclose(*lengths, rtol=1e-4)
