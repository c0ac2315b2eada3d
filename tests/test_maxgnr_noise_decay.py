"""The averaged noise Gramian against float64 averages of the samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maxgnr_jax import maxgnr
from tests.helpers.examples import example_params, follow, grads_sequence
from tests.helpers.trees import assert_trees_close

pytestmark = pytest.mark.usefixtures("quick_compilation")

STEPS, GAMMA = 6, 0.6
PARAMS = jnp.zeros(40)


def noises(sequence):
  """The noise [T, K, D] of Eq. 16 in float64; it is 0 at the first step."""
  momentum, found = None, []
  for grads in np.asarray(sequence, np.float64):
    momentum = grads if momentum is None else GAMMA * momentum + (1 - GAMMA) * grads
    found.append(grads - momentum)
  return np.stack(found)


def gram(state):
  return state.noise.norm[:, None] * state.noise.norm[None, :] * state.noise.cosine


@settings(max_examples=8)
@given(
  noise_decay=st.sampled_from([0.5, 0.99]),
  exponent=st.sampled_from([-15, 0, 15]),
  seed=st.integers(0, 99),
)
def test_the_noise_gramian_is_the_bias_corrected_average_of_the_samples(
  noise_decay, exponent, seed
):
  rng = np.random.default_rng(seed)
  sequence = rng.normal(size=(STEPS, 3, PARAMS.size)) * 10.0**exponent
  tx = maxgnr(GAMMA, num_tasks=3, noise_decay=noise_decay)
  history = follow(tx, PARAMS, jnp.asarray(sequence, jnp.float32))
  samples = noises(np.asarray(sequence, np.float32))
  for step in range(1, STEPS):
    factors = noise_decay ** np.arange(step)[::-1].astype(float)
    products = np.einsum("tkd,tjd->tkj", samples[1 : step + 1], samples[1 : step + 1])
    expected = np.tensordot(factors / factors.sum(), products, 1)
    state = history[step][1]
    norm = np.asarray(state.noise.norm, np.float64)
    found = norm[:, None] * norm[None, :] * np.asarray(state.noise.cosine, np.float64)
    scale = np.max(np.diagonal(expected))
    np.testing.assert_allclose(found / scale, expected / scale, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(state.stats.noise_norm, state.noise.norm, rtol=1e-6)


def test_with_noise_decay_zero_only_the_last_sample_counts():
  params = example_params()
  sequence = grads_sequence(params, 3, 4)
  averaged = follow(maxgnr(num_tasks=3, noise_decay=0.0), params, sequence)
  plain = follow(maxgnr(num_tasks=3), params, sequence)
  for (updates, state), (right_updates, right) in zip(averaged, plain, strict=True):
    assert_trees_close(updates, right_updates, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(state.weights, right.weights, rtol=1e-4)


@settings(max_examples=8)
@given(
  masks=st.lists(
    st.lists(st.booleans(), min_size=4, max_size=4), min_size=8, max_size=8
  ),
  seed=st.integers(0, 99),
)
def test_inactive_tasks_leave_the_noise_gramian_positive_semidefinite(masks, seed):
  """The gradients point almost in one direction, so that the Gramian has rank 1."""
  rng = np.random.default_rng(seed)
  tx = maxgnr(GAMMA, num_tasks=4, noise_decay=0.9)
  update = jax.jit(tx.update)
  state = tx.init(PARAMS)
  for mask in masks:
    before = state
    grads = rng.normal(size=PARAMS.size) + 0.01 * rng.normal(size=(4, PARAMS.size))
    _, state = update(jnp.asarray(grads, jnp.float32), state, task_mask=jnp.array(mask))
    assert np.linalg.eigvalsh(np.asarray(state.noise.cosine, np.float64))[0] > -1e-5
    inactive = ~np.array(mask)
    np.testing.assert_allclose(
      state.noise.norm[inactive], before.noise.norm[inactive], rtol=1e-5
    )
    if any(mask):
      np.testing.assert_allclose(jnp.sum(state.weights), 1, rtol=1e-5)


def test_averaging_the_noise_makes_the_weights_steadier():
  rng = np.random.default_rng(0)
  signal = rng.normal(size=(3, PARAMS.size))
  mixture = np.array([[1.0, 0.0, 0.0], [-0.9, 0.3, 0.0], [0.5, 0.0, 1.0]])
  sequence = [
    jnp.asarray(signal + 3 * mixture @ rng.normal(size=(3, PARAMS.size)), jnp.float32)
    for _ in range(150)
  ]

  def spread(noise_decay):
    history = follow(
      maxgnr(0.9, num_tasks=3, noise_decay=noise_decay), PARAMS, sequence
    )
    return np.std([state.weights for _, state in history[50:]], axis=0).mean()

  assert spread(0.99) < 0.8 * spread(None)


@pytest.mark.parametrize("noise_decay", [-0.1, 1.0, "0.5"])
def test_noise_decay_must_lie_between_zero_and_one(noise_decay):
  with pytest.raises(ValueError, match=r"`noise_decay` must be in \[0, 1\)"):
    maxgnr(noise_decay=noise_decay)
