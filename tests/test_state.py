"""`aggregator_state` finds the aggregator in the state of any optimiser."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training.train_state import TrainState

from maxgnr_jax import (
  aggregator_state,
  aggregators,
  diagnostics,
  maxgnr,
  value_and_combined_grad,
)
from tests.helpers.trees import assert_trees_equal

pytestmark = pytest.mark.usefixtures("standard_promotion", "quick_compilation")
# Names of the states' fields, which Adam's moments then have too.
NAMES = ("weights", "count", "gnr", "momentum", "stats", "memory", "noise_norm")
PARAMS = {name: jnp.ones(2) for name in NAMES}
GRADS = jax.tree.map(lambda p: jnp.stack([p, 3 * p]), PARAMS)
ADAM = optax.adam(0.1)
AGGREGATORS = {
  "maxgnr": maxgnr(num_tasks=2),
  "maxgnr by parameter": maxgnr(num_tasks=2, groups="parameter", noise_decay=0.9),
  "gradnorm": aggregators.gradnorm(num_tasks=2),
  "moco": aggregators.moco(num_tasks=2),
}
WRAPPERS = {
  "alone": lambda tx: tx,
  "chain": lambda tx: optax.chain(tx, ADAM),
  "nested chains": lambda tx: optax.chain(ADAM, optax.chain(ADAM, optax.chain(tx))),
  "named_chain": lambda tx: optax.named_chain(("first", tx), ("adam", ADAM)),
  "masked": lambda tx: optax.masked(tx, dict.fromkeys(NAMES, True)),
  "partition": lambda tx: optax.partition(
    {"train": optax.chain(tx, ADAM), "freeze": ADAM}, dict.fromkeys(NAMES, "train")
  ),
  "MultiSteps": lambda tx: optax.MultiSteps(optax.chain(tx, ADAM), 2),
  "apply_if_finite": lambda tx: optax.apply_if_finite(optax.chain(tx, ADAM), 2),
  "value_and_combined_grad": lambda tx: value_and_combined_grad(
    jnp.sum, tx, refresh_every=1
  ),
}


@pytest.mark.parametrize("name", AGGREGATORS)
@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_the_state_is_found_at_any_depth(name, wrap):
  tx = AGGREGATORS[name]
  expected, state = tx.init(PARAMS), wrap(tx).init(PARAMS)
  assert_trees_equal(aggregator_state(state), expected)
  # The state of many runs at once is found as well, and under a trace.
  stacked = jax.tree.map(lambda x: jnp.stack([x, x]), state)
  many = jax.eval_shape(jax.vmap(aggregator_state), stacked)
  assert jax.tree.structure(many) == jax.tree.structure(expected)
  assert many.task_count.shape == (2, 2)


@functools.cache
def expected_state():
  tx = AGGREGATORS["maxgnr"]
  state = tx.update(GRADS, tx.init(PARAMS), PARAMS)[1]
  np.testing.assert_allclose(state.weights, [3 / 4, 1 / 4], rtol=1e-6)
  assert state.count == 1
  return state


def test_the_fields_of_inject_hyperparams_after_a_step():
  inject = optax.inject_hyperparams(maxgnr, static_args="num_tasks")
  tx = optax.chain(inject(gamma=lambda _: 0.9, num_tasks=2), ADAM)
  _, state = jax.jit(tx.update)(GRADS, tx.init(PARAMS), PARAMS)
  weights = jax.jit(lambda state: aggregator_state(state).weights)(state)
  np.testing.assert_allclose(weights, [3 / 4, 1 / 4], rtol=1e-6)


def test_the_fields_of_a_linen_train_state():
  tx = WRAPPERS["chain"](AGGREGATORS["maxgnr"])
  state = TrainState.create(apply_fn=None, params=PARAMS, tx=tx)
  state = state.apply_gradients(grads=GRADS)
  assert_trees_equal(aggregator_state(state), expected_state())


def test_the_fields_of_an_nnx_optimizer_are_arrays():
  model = nnx.Dict({name: nnx.Param(value) for name, value in PARAMS.items()})
  tx = WRAPPERS["chain"](AGGREGATORS["maxgnr"])
  optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)

  @nnx.jit
  def step(model, optimizer):
    stacked = jax.tree.map(lambda p: jnp.stack([p, 3 * p]), nnx.state(model))
    optimizer.update(model, stacked)
    return aggregator_state(optimizer).weights

  np.testing.assert_allclose(step(model, optimizer), [3 / 4, 1 / 4], rtol=1e-6)
  for holder in (optimizer, optimizer.opt_state, {"any": [optimizer]}):
    state = aggregator_state(holder)
    momentum = {name: state.momentum[name] for name in PARAMS}
    assert_trees_equal(state._replace(momentum=momentum), expected_state())
  assert diagnostics(optimizer) == diagnostics(expected_state())


@pytest.mark.parametrize("name", AGGREGATORS)
def test_no_variable_is_left_of_an_nnx_optimizer(name):
  model = nnx.Dict({name: nnx.Param(value) for name, value in PARAMS.items()})
  optimizer = nnx.Optimizer(model, WRAPPERS["chain"](AGGREGATORS[name]), wrt=nnx.Param)
  state = aggregator_state(optimizer)
  expected = AGGREGATORS[name].init(PARAMS)
  assert_trees_equal(jax.tree.leaves(state), jax.tree.leaves(expected))
  nodes = jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, nnx.Variable))
  assert not any(isinstance(node, nnx.Variable) for node in nodes)


def test_an_object_that_is_no_pytree_is_looked_into():
  state = WRAPPERS["chain"](AGGREGATORS["maxgnr"]).init(PARAMS)
  holder = types.SimpleNamespace(opt_state=state)
  assert_trees_equal(aggregator_state([PARAMS, holder]), state[0])


@pytest.mark.parametrize(
  "state", [{}, PARAMS, ADAM.init(PARAMS), types.SimpleNamespace(opt_state=())]
)
def test_a_state_without_aggregator_is_refused(state):
  with pytest.raises(KeyError, match=r"found none\. Pass what `init` or `update`"):
    aggregator_state(state)


def test_several_aggregators_are_listed_and_each_is_found_in_its_part():
  inner = AGGREGATORS["maxgnr"]
  state = optax.chain(aggregators.flat_regions(inner), ADAM).init(PARAMS)
  message = r"found 2, at \[0\]\.plain and \[0\]\.flat\. Pass the part"
  with pytest.raises(KeyError, match=message):
    aggregator_state(state)
  flat = state[0].flat._replace(count=jnp.asarray(7))
  assert aggregator_state(flat).count == 7
  assert aggregator_state(state[0].plain).count == 0
  holder = [types.SimpleNamespace(opt_state=state)]
  with pytest.raises(KeyError, match=r"found 2, at \[0\]\.opt_state\[0\]\.plain"):
    aggregator_state(holder)
