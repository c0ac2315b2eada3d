"""Gradients without `jax.jit`: nothing is compiled again, and losses see numbers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from maxgnr_jax import (
  maxgnr,
  value_and_combined_grad,
  value_and_flat_task_grads,
  value_and_task_grads,
)
from tests.helpers.compilations import left_by
from tests.helpers.marks import thorough_but
from tests.helpers.trees import assert_trees_close

pytestmark = pytest.mark.usefixtures("quick_compilation")
PARAMS = {"w": jnp.linspace(-1.0, 1.0, 3), "b": jnp.ones(2)}
X = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), jnp.float32)


@jax.jit  # a part that the user compiled
def features(params, x):
  return jnp.tanh(x @ params["w"]) * jnp.sum(params["b"])


def named(params, x):
  hidden = features(params, x)
  return {"b": jnp.mean(hidden), "a": jnp.mean(hidden**2), "c": jnp.sum(params["b"])}


def many(params, x, num_tasks=20):
  return jnp.mean(features(params, x)) ** 2 * jnp.arange(1.0, num_tasks + 1)


def with_aux(params, x):
  return named(params, x), {"rows": x, "number": 3}


FUNCTIONS = {
  "plain": value_and_task_grads(named),
  "one at a time": value_and_task_grads(named, tasks_at_once=1),
  "two at a time": value_and_task_grads(named, tasks_at_once=2),
  "side by side": value_and_task_grads(named, tasks_at_once=3),
  "many": value_and_task_grads(many),
  "three of many": value_and_task_grads(many, tasks_at_once=3),
  "vector": value_and_task_grads(functools.partial(many, num_tasks=3)),
  "aux and argnums": value_and_task_grads(with_aux, (0, 1), has_aux=True),
  "microbatches": value_and_task_grads(with_aux, has_aux=True, microbatches=2),
  "microbatches, one": value_and_task_grads(named, microbatches=4, tasks_at_once=1),
  "flat": value_and_flat_task_grads(named),
  "flat, one": value_and_flat_task_grads(with_aux, has_aux=True, tasks_at_once=1),
  "flat, two": value_and_flat_task_grads(many, adaptive=True, tasks_at_once=9),
  "flat, trunk": value_and_flat_task_grads(named, shared={"w": True, "b": False}),
}


# Each is compiled twice; the others combine what these do.
USUAL = ("side by side", "microbatches")


@pytest.mark.parametrize("name", thorough_but(USUAL, FUNCTIONS))
def test_calls_compile_nothing_again_and_give_what_jit_gives(name):
  def call():
    return FUNCTIONS[name](PARAMS, X)

  result = call()
  assert left_by(call, 3) == (0, 0, 0)
  assert_trees_close(
    jax.tree.map(jnp.asarray, result), jax.jit(call)(), rtol=1e-5, atol=1e-5
  )


def jitted(aggregator):
  """Compiles the aggregator's update, so that only the gradients are measured."""
  return optax.GradientTransformationExtraArgs(
    aggregator.init, jax.jit(aggregator.update)
  )


@pytest.mark.parametrize(
  ("refresh_every", "options"),
  [
    pytest.param(1, {}, marks=pytest.mark.thorough),
    pytest.param(2, {}, marks=pytest.mark.thorough),
    (3, {"microbatches": 2, "tasks_at_once": 1}),
  ],
)
def test_steps_with_a_combined_gradient_compile_nothing_again(refresh_every, options):
  combined = value_and_combined_grad(
    named, jitted(maxgnr(num_tasks=3)), refresh_every=refresh_every, **options
  )
  mask = {"a": jnp.array(True), "b": jnp.array(False), "c": jnp.array(True)}
  states, compiled_step = [combined.init(PARAMS)], jax.jit(combined.value_and_grad)

  def step():
    values, grad, state = combined.value_and_grad(states[0], PARAMS, X, task_mask=mask)
    states[0] = state
    return values, grad, state

  for _ in range(refresh_every):
    expected = compiled_step(states[0], PARAMS, X, task_mask=mask)
    assert_trees_close(step(), expected, rtol=1e-5, atol=1e-5)
  del expected
  assert left_by(step, 2 * refresh_every) == (0, 0, 0)


def in_one_combined_step(fun):
  combined = value_and_combined_grad(
    fun, maxgnr(num_tasks=2), refresh_every=2, microbatches=2
  )
  return functools.partial(combined.value_and_grad, combined.init(PARAMS))


@pytest.mark.parametrize(
  ("made", "rows"),
  [
    (functools.partial(value_and_task_grads, microbatches=2), [2, 2]),
    (functools.partial(value_and_flat_task_grads, tasks_at_once=1), [4, 4, 4]),
    (in_one_combined_step, [2, 2]),
  ],
)
def test_losses_are_computed_from_numbers_and_no_more_often_than_needed(made, rows):
  seen = []

  def fun(params, x):
    seen.append(np.asarray(x).shape[0])  # of a tracer this would raise an error
    return jnp.mean(x) * jnp.sum(params["w"]), jnp.sum(params["b"])

  made(fun)(PARAMS, X)
  assert seen == rows


@pytest.mark.thorough
def test_loops_are_compiled_where_the_caller_compiles():
  loops = value_and_task_grads(named, microbatches=4, tasks_at_once=1)
  # No argument is traced here, but all is compiled.
  assert str(jax.make_jaxpr(lambda: loops(PARAMS, X))()).count("scan[") == 2
  # Without a compilation, the parameters of several seeds are no reason for one.
  seeds = jax.tree.map(lambda p: jnp.stack([p, 2 * p]), PARAMS)
  call = functools.partial(jax.vmap(loops, (0, None)), seeds, X)
  _, grads = call()
  assert left_by(call, 2) == (0, 0, 0)
  _, expected = loops(jax.tree.map(lambda p: 2 * p, PARAMS), X)
  assert_trees_close(jax.tree.map(lambda g: g[1], grads), expected, rtol=1e-5)
