"""The parameters that `shared` selects: weights are measured on this trunk."""

import chex
import jax
import numpy as np
import optax
import pytest

from maxgnr_jax import maxgnr
from tests.helpers.examples import (
  algorithm1,
  default_maxgnr,
  example_params,
  flat,
  follow,
  grads_sequence,
  random_grads,
)
from tests.helpers.trees import assert_trees_equal

pytestmark = pytest.mark.usefixtures("quick_compilation")
SHARED_TRUNK = {
  "a pytree": {"head": {"bias": False, "gain": False}, "trunk": (True, True)},
  "a prefix": {"head": False, "trunk": True},
  "NumPy bools": {"head": np.bool_(False), "trunk": (np.True_, np.True_)},
  "a function": lambda params: {
    "head": jax.tree.map(lambda _: False, params["head"]),
    "trunk": jax.tree.map(lambda _: True, params["trunk"]),
  },
}


@pytest.mark.parametrize("shared", SHARED_TRUNK.values(), ids=SHARED_TRUNK)
def test_weights_are_measured_on_the_trunk_and_updates_hold_all_parameters(shared):
  params = example_params()
  sequence = grads_sequence(params, 3, 3)
  head = flat(params["head"]).size
  history = follow(maxgnr(shared=shared, num_tasks=3), params, sequence)
  expected = algorithm1(sequence, measured=slice(head, None))
  for (updates, state), step in zip(history, expected, strict=True):
    np.testing.assert_allclose(state.weights, step.weights, rtol=1e-3)
    np.testing.assert_allclose(flat(updates), step.update, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("num_tasks", [None, 3])
def test_momentum_is_kept_for_the_trunk_only(num_tasks):
  params = example_params()
  shared = {"head": {"bias": False, "gain": False}, "trunk": (True, False)}
  tx = maxgnr(shared=shared, num_tasks=num_tasks)
  _, state = jax.eval_shape(tx.update, random_grads(params, 3), tx.init(params), params)
  for momentum in (tx.init(params).momentum, state.momentum):
    assert momentum["head"]["bias"] == optax.MaskedNode()
    assert momentum["trunk"][1] == optax.MaskedNode()
    assert len(jax.tree.leaves(momentum)) == 1
  chex.assert_trees_all_equal_structs(tx.init(params), state)


def test_the_default_trunk_is_all_parameters():
  params = example_params()
  sequence = grads_sequence(params, 3, 3)
  expected = follow(default_maxgnr(3), params, sequence)
  assert_trees_equal(
    follow(maxgnr(shared=True, num_tasks=3), params, sequence), expected
  )


def test_a_task_without_gradient_on_the_trunk_has_no_weight():
  params = example_params()
  grads = random_grads(params, 2)
  grads["trunk"] = jax.tree.map(lambda g: g.at[1].set(0.0), grads["trunk"])
  tx = maxgnr(shared={"head": False, "trunk": True})
  updates, state = follow(tx, params, [grads])[-1]
  np.testing.assert_array_equal(state.weights, [1, 0])
  assert updates["head"]["gain"] == grads["head"]["gain"][0]
