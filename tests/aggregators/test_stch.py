"""STCH against the derivatives of the smooth maximum."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

from maxgnr_jax import aggregators
from tests.helpers import inactive
from tests.helpers.loss_sequence import NUM_TASKS, assert_weights_are_derivatives

pytestmark = pytest.mark.usefixtures("quick_compilation")


def test_stch_uses_the_preferences_and_ideals_of_the_active_tasks():
  preferences, ideal = [0.2, 0.5, 1.3, 0.7], [0.1, 0.0, -1.0, 0.2]
  mask = inactive.all_but(0)
  make = functools.partial(aggregators.stch, 0.5, preferences=preferences, ideal=ideal)
  _, state = inactive.run(make, mask[None], losses=inactive.LOSSES.at[:, 0].set(np.nan))
  expected = aggregators.stch_weights(
    (inactive.LOSSES[0] - jnp.asarray(ideal))[1:], 0.5, jnp.asarray(preferences[1:])
  )
  np.testing.assert_allclose(state.weights[0], np.append(0, expected), rtol=1e-5)


@pytest.mark.parametrize("argument", ["preferences", "ideal"])
def test_stch_requires_one_preference_and_one_ideal_per_task(argument):
  tx = aggregators.stch(**{argument: [0.5, 0.5]})
  message = rf"`{argument}` must hold one number per task, shape \(3,\), got shape \(2"
  with pytest.raises(ValueError, match=message):
    tx.update(jnp.eye(3), tx.init(jnp.ones(3)), losses=jnp.ones(3))


@pytest.mark.usefixtures("float64")
def test_stch_weights_are_the_derivatives_of_the_smooth_maximum():
  tx = aggregators.stch(0.5, num_tasks=NUM_TASKS)
  assert_weights_are_derivatives(
    tx, lambda losses: 0.5 * np.log(np.sum(np.exp(losses / NUM_TASKS / 0.5)))
  )


@pytest.mark.usefixtures("float64")
def test_stch_weights_are_the_derivatives_with_preferences_and_an_ideal():
  preferences, ideal = np.array([0.2, 0.5, 1.3]), np.array([0.1, 0.4, -1.0])
  tx = aggregators.stch(0.5, preferences=preferences, ideal=ideal, num_tasks=NUM_TASKS)
  assert_weights_are_derivatives(
    tx,
    lambda losses: 0.5 * np.log(np.sum(np.exp(preferences * (losses - ideal) / 0.5))),
  )
