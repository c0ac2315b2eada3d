"""`shared` and `groups` may be functions, or pytrees that can be called as well."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from maxgnr_jax import aggregators, group_names, maxgnr, value_and_flat_task_grads
from tests.helpers.trees import assert_trees_equal

pytestmark = pytest.mark.usefixtures("quick_compilation")


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Model:
  """A pytree that can be called, as an Equinox module."""

  trunk: jax.Array
  head: jax.Array

  def __call__(self, x):
    return jnp.tanh(x @ self.trunk) @ self.head


PARAMS = Model(jnp.ones((2, 2)), jnp.ones(3))
MASK, LABELS = Model(True, False), Model("trunk", "head")
# In the trunk the tasks have norms in the ratio 1 : 3, in the head 1 : 12.
GRADS = Model(jnp.ones((2, 2, 2)).at[1].set(3.0), jnp.ones((2, 3)).at[1].set(12.0))


class Always:
  """An object that can be called, with a leaf that is not known to JAX."""

  def __init__(self, result):
    self.result = result

  def __call__(self, params):
    return self.result


@jax.tree_util.register_static
class Static(Always):
  """A pytree without leaves that can be called."""

  __hash__ = object.__hash__


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Chosen:
  """A pytree that can be called, as can each of its leaves."""

  choose: Always

  def __call__(self, params):
    return self.choose(params)


FUNCTIONS = {
  "a lambda": lambda result: lambda _: result,
  "a partial": lambda result: functools.partial(lambda result, _: result, result),
  "an object": Always,
  "a bound method": lambda result: Always(result).__call__,
  "a pytree of functions": lambda result: Chosen(Always(result)),
  "a pytree without leaves": Static,
  "a Partial without arguments": lambda result: jax.tree_util.Partial(Always(result)),
}


def first_step(tx):
  updates, state = tx.update(GRADS, tx.init(PARAMS), PARAMS)
  return state.weights, [float(updates.trunk[0, 0]), float(updates.head[0])]


def test_a_mask_that_can_be_called_is_read():
  weights, updates = first_step(maxgnr(num_tasks=2, shared=MASK))
  np.testing.assert_allclose(weights, [3 / 4, 1 / 4], rtol=1e-5)
  np.testing.assert_allclose(updates, [3 / 2, 15 / 4], rtol=1e-5)
  # MGDA takes the shorter of two parallel gradients.
  np.testing.assert_allclose(first_step(aggregators.mgda(shared=MASK))[0], [1, 0])


def test_labels_that_can_be_called_are_read():
  assert group_names(LABELS, PARAMS) == ["head", "trunk"]
  weights, updates = first_step(maxgnr(num_tasks=2, groups=LABELS))
  np.testing.assert_allclose(weights, [[12 / 13, 1 / 13], [3 / 4, 1 / 4]], rtol=1e-5)
  np.testing.assert_allclose(updates, [3 / 2, 24 / 13], rtol=1e-5)


@pytest.mark.parametrize("make", FUNCTIONS.values(), ids=FUNCTIONS)
def test_a_function_is_called(make):
  state = maxgnr(num_tasks=2, shared=make(MASK), groups=make("all")).init(PARAMS)
  assert state.momentum.head == optax.MaskedNode()
  assert state.weights.shape == (1, 2)
  assert group_names(make(LABELS), PARAMS) == ["head", "trunk"]


# To optax a pytree without leaves is never a function, and so always an error.
KNOWN_TO_OPTAX = [name for name in FUNCTIONS if "without" not in name]


@pytest.mark.parametrize(
  "shared", [MASK, *(FUNCTIONS[name](MASK) for name in KNOWN_TO_OPTAX)]
)
def test_what_is_called_agrees_with_optax_masked(shared):
  masked = optax.masked(optax.trace(0.9), shared).init(PARAMS).inner_state.trace
  momentum = maxgnr(num_tasks=2, shared=shared).init(PARAMS).momentum
  chex.assert_trees_all_equal_structs(momentum, masked)


def test_the_perturbation_of_flat_gradients_reads_a_mask_that_can_be_called():
  def losses(model):
    return jnp.sum(model.trunk**2), jnp.sum(model.trunk**2) + jnp.sum(model.head**2)

  read = value_and_flat_task_grads(losses, shared=MASK)(PARAMS)
  assert_trees_equal(
    read, value_and_flat_task_grads(losses, shared=lambda _: MASK)(PARAMS)
  )


@pytest.mark.parametrize(
  ("argument", "given", "needed"),
  [
    ("shared", Model(True, jnp.ones), "bools, got <function ones"),
    ("shared", jax.tree_util.Partial(lambda *_: MASK, 1.0), "a pytree of bools like"),
    ("groups", Model("trunk", jnp.ones), "strings, the labels, got <function ones"),
    ("groups", jax.tree_util.Partial(lambda *_: LABELS, 1.0), "a pytree of labels"),
  ],
)
def test_what_is_neither_a_function_nor_a_mask_is_refused(argument, given, needed):
  kind = type(given).__name__
  message = rf"`{argument}` must .*{needed}.* The {kind} can be called, but .* a lambda"
  with pytest.raises((TypeError, ValueError), match=message):
    maxgnr(**{argument: given}).init(PARAMS)


@pytest.mark.parametrize("argument", ["shared", "groups"])
def test_what_a_function_returns_is_not_called(argument):
  with pytest.raises(
    TypeError, match=rf"`{argument}` must hold .*Always object at \w+>\.$"
  ):
    maxgnr(**{argument: lambda _: Always(True)}).init(PARAMS)
