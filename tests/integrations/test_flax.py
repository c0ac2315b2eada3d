"""`maxgnr` in flax's train loops, linen and NNX, beside plain optax."""

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training.train_state import TrainState

from maxgnr_jax import diagnostics, maxgnr, value_and_task_grads
from tests.helpers.examples import flat, rows
from tests.helpers.trees import assert_trees_close

pytestmark = pytest.mark.usefixtures("standard_promotion", "quick_compilation")
INPUTS = jnp.asarray(np.random.default_rng(0).normal(size=(5, 8, 3)), jnp.float32)
HEADS = ("first", "sum")


def task_losses(outputs, x):
  return {
    "first": 100.0 * jnp.mean((outputs["first"] - x[:, 0]) ** 2),
    "sum": jnp.mean((outputs["sum"] - x.sum(-1)) ** 2),
  }


def chain(num_tasks=None, shared=None):
  return optax.chain(
    maxgnr(gamma=0.9, num_tasks=num_tasks, shared=shared), optax.adam(1e-2)
  )


def plain_loop(losses, params, rest, tx):
  """Parameters after training on `losses(params, rest, x) -> (losses, rest)`."""

  @jax.jit
  def step(params, rest, opt_state, x):
    (values, rest), grads = value_and_task_grads(losses, has_aux=True)(params, rest, x)
    updates, opt_state = tx.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), rest, opt_state, values

  opt_state = tx.init(params)
  for x in INPUTS:
    params, rest, opt_state, values = step(params, rest, opt_state, x)
  return params, values


class LinenModel(flax.linen.Module):
  @flax.linen.compact
  def __call__(self, x):
    hidden = flax.linen.tanh(flax.linen.Dense(4, name="trunk")(x))
    return {name: flax.linen.Dense(1, name=name)(hidden)[:, 0] for name in HEADS}


def test_linen_train_state_equals_a_plain_loop():
  model = LinenModel()
  params = jax.jit(model.init)(jax.random.key(0), INPUTS[0])["params"]
  shared = {"trunk": True, "sum": False, "first": False}

  def losses(params, x):
    return task_losses(model.apply({"params": params}, x), x)

  @jax.jit
  def train_step(state, x):
    values, grads = value_and_task_grads(losses)(state.params, x)
    return state.apply_gradients(grads=grads), values

  state = TrainState.create(apply_fn=model.apply, params=params, tx=chain(None, shared))
  for x in INPUTS:
    state, values = train_step(state, x)
  expected, expected_values = plain_loop(
    lambda params, rest, x: (losses(params, x), rest), params, (), chain(2, shared)
  )
  assert state.step == len(INPUTS)
  assert_trees_close(state.params, expected, rtol=1e-3, atol=1e-5)
  assert_trees_close(values, expected_values, rtol=1e-3)
  assert np.max(np.abs(flat(state.params) - flat(params))) > 0.01


class NNXModel(nnx.Module):
  def __init__(self, rngs):
    self.trunk = nnx.Linear(3, 4, rngs=rngs)
    self.dropout = nnx.Dropout(0.5, rngs=rngs)
    self.first = nnx.Linear(4, 1, rngs=rngs)
    self.sum = nnx.Linear(4, 1, rngs=rngs)

  def __call__(self, x):
    hidden = self.dropout(nnx.tanh(self.trunk(x)))
    return {name: getattr(self, name)(hidden)[:, 0] for name in HEADS}


def nnx_losses(graphdef):
  """The losses as a function of the parameters, which also returns the other state."""

  def losses(params, rest, x):
    model = nnx.merge(graphdef, params, rest, copy=True)
    return task_losses(model(x), x), nnx.state(model, nnx.Not(nnx.Param))

  return losses


def trunk_by_path(params):
  return nnx.map_state(lambda path, _: path[0] == "trunk", params)


@pytest.mark.parametrize(("num_tasks", "shared"), [(None, None), (2, trunk_by_path)])
def test_nnx_optimizer_equals_a_plain_loop(num_tasks, shared):
  model = NNXModel(nnx.Rngs(0))
  optimizer = nnx.Optimizer(model, chain(num_tasks, shared), wrt=nnx.Param)

  @nnx.jit
  def train_step(model, optimizer, x):
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    (values, rest), grads = value_and_task_grads(nnx_losses(graphdef), has_aux=True)(
      params, rest, x
    )
    nnx.update(model, rest)
    optimizer.update(model, grads)
    return values

  for x in INPUTS:
    values = train_step(model, optimizer, x)

  graphdef, params, rest = nnx.split(NNXModel(nnx.Rngs(0)), nnx.Param, ...)
  expected, expected_values = plain_loop(
    nnx_losses(graphdef), params, rest, chain(2, shared)
  )
  trained = flat(nnx.state(model, nnx.Param))
  np.testing.assert_allclose(trained, flat(expected), rtol=1e-3, atol=1e-5)
  assert_trees_close(values, expected_values, rtol=1e-3)
  assert np.max(np.abs(trained - flat(params))) > 0.01


def test_nnx_weights_are_measured_on_the_trunk_and_logged():
  model = NNXModel(nnx.Rngs(0))
  tx = optax.chain(maxgnr(shared=trunk_by_path, num_tasks=2), optax.sgd(0.1))
  optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
  np.testing.assert_allclose(optax.tree.get(optimizer.opt_state, "weights"), 1 / 2)

  @nnx.jit
  def step(model, optimizer):
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    losses = nnx_losses(graphdef)
    _, grads = value_and_task_grads(losses, has_aux=True)(params, rest, INPUTS[0])
    optimizer.update(model, grads)
    return grads, diagnostics(optimizer.opt_state, HEADS)

  grads, logged = step(model, optimizer)
  inverse = 1 / np.linalg.norm(rows(grads["trunk"]), axis=1)
  weights = [logged["weights/first"], logged["weights/sum"]]
  np.testing.assert_allclose(weights, inverse / inverse.sum(), rtol=1e-5)
  after = diagnostics(optimizer.opt_state, HEADS)
  assert float(after["weights/first"]) == pytest.approx(float(weights[0]))
