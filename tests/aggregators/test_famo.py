"""FAMO beside its formula in NumPy, step by step."""

import functools

import chex
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from maxgnr_jax import aggregators
from tests.helpers import inactive
from tests.helpers.loss_sequence import LOSSES, NUM_TASKS, assert_weights, softmax

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("min_losses", [0.0, [0.01, 0.1, 2.0]])
@pytest.mark.parametrize("measured", [True, False])
def test_famo_learns_from_how_the_last_step_changed_the_losses(min_losses, measured):
  drawn = np.random.default_rng(4).normal(size=LOSSES.shape)
  after = LOSSES * np.exp(0.1 * drawn) if measured else LOSSES
  logits, last, expected = np.zeros(NUM_TASKS), None, []
  for now, then in zip(LOSSES, after, strict=True):
    if last is not None:
      progress = np.log(last) - np.log(then - min_losses + 1e-8)
      z = softmax(logits)
      # The authors' surrogate: the gradient of ⟨softmax(ξ), progress⟩ by ξ.
      logits = logits - 0.3 * (np.diag(z) - np.outer(z, z)) @ progress
    last = now - min_losses + 1e-8
    weights = softmax(logits) / last
    expected.append(weights / weights.sum())
  tx = aggregators.famo(optax.sgd(0.3), jnp.asarray(min_losses), num_tasks=NUM_TASKS)
  extra_args = {"losses_after_step": after} if measured else {}
  assert_weights(tx, expected, **extra_args)


def test_famo_updates_only_the_logits_of_tasks_active_in_the_last_step():
  make = functools.partial(aggregators.famo, optax.sgd(0.5))
  masks = np.stack([inactive.ALL_TASKS, inactive.all_but(0), inactive.ALL_TASKS])
  _, state = inactive.run(
    make, masks, losses=inactive.LOSSES, losses_after_step=inactive.AFTER
  )
  logits = np.asarray(state.memory["logits"])
  np.testing.assert_array_equal(logits[0], 0)
  # The other tasks learn as if there were no task 0.
  z = np.exp(logits[1, 1:]) / np.exp(logits[1, 1:]).sum()
  progress = np.log(
    np.asarray(state.memory["last_losses"])[1, 1:] / inactive.AFTER[2, 1:]
  )
  expected = logits[1, 1:] - 0.5 * z * (progress - z @ progress)
  np.testing.assert_allclose(logits[2, 1:], expected, rtol=1e-4, atol=1e-6)
  assert logits[2, 0] == logits[1, 0] == 0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_famo_keeps_a_logit_where_the_loss_after_the_step_is_not_finite(value):
  make = functools.partial(aggregators.famo, optax.sgd(0.5))
  masks = np.ones((inactive.NUM_STEPS, inactive.NUM_TASKS), bool)
  broken = inactive.AFTER.at[:, 2].set(value)
  _, state = inactive.run(make, masks, losses=inactive.LOSSES, losses_after_step=broken)
  logits = np.asarray(state.memory["logits"])
  np.testing.assert_array_equal(logits[:, 2], 0)
  chex.assert_tree_all_finite(logits)
  assert np.all(logits[-1, :2] != 0)
  assert np.all(state.weights > 0)
