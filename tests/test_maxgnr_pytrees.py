"""`maxgnr` on parameters of every shape and structure."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from maxgnr_jax import aggregators, maxgnr
from tests.helpers.examples import (
  algorithm1,
  default_maxgnr,
  flat,
  follow,
  grads_sequence,
)
from tests.helpers.trees import assert_trees_close

pytestmark = pytest.mark.usefixtures("quick_compilation")


class Layer(NamedTuple):
  kernel: jax.Array
  bias: jax.Array | None


PYTREES = {
  "array": jnp.ones(17),
  "scalars": {"a": jnp.ones(()), "b": jnp.zeros(())},
  "tuple": (jnp.ones(3), (jnp.ones((2, 2)),)),
  "list": [jnp.ones(3), [jnp.ones((2, 3, 4))]],
  "named tuple": Layer(jnp.ones((4, 2)), jnp.zeros(2)),
  "nested": {"a": [Layer(jnp.ones((2, 2)), jnp.ones(2))], "b": (jnp.ones(()),)},
  "None leaf": {"a": jnp.ones(5), "b": None, "c": Layer(jnp.ones((2, 2)), None)},
  "masked leaf": {"a": jnp.ones(5), "b": optax.MaskedNode()},
  "empty array": {"a": jnp.ones(5), "b": jnp.ones((3, 0))},
  "empty branch": {"a": jnp.ones(5), "b": {}, "c": ()},
}


@pytest.mark.parametrize("params", PYTREES.values(), ids=PYTREES)
def test_any_pytree_of_parameters_follows_algorithm_1(params):
  sequence = grads_sequence(params, 3, 3)
  history = follow(default_maxgnr(3), params, sequence)
  for (updates, state), step in zip(history, algorithm1(sequence), strict=True):
    chex.assert_trees_all_equal_structs(updates, state.momentum, params)
    np.testing.assert_allclose(state.weights, step.weights, rtol=1e-2, atol=1e-5)
    np.testing.assert_allclose(flat(updates), step.update, rtol=1e-2, atol=1e-4)


def test_parameters_may_be_python_floats_as_in_optax():
  params, as_arrays = {"a": 1.0}, {"a": jnp.float32(1.0)}
  grads = {"a": jnp.array([2.0, 3.0])}
  expected, _ = follow(default_maxgnr(2), as_arrays, [grads])[-1]
  updates, _ = follow(default_maxgnr(2), params, [grads])[-1]
  assert_trees_close(updates, expected)


@pytest.mark.parametrize("factory", [maxgnr, aggregators.mgda])
def test_empty_arrays_as_gradients_give_empty_updates(factory):
  params = {"a": jnp.ones((3, 0))}
  tx = factory(num_tasks=2)
  state = tx.init(params)
  updates, after = tx.update({"a": jnp.ones((2, 3, 0))}, state, params)
  assert_trees_close(updates, params)
  assert_trees_close(after, state)
