"""A program that uses the library as its users do, with the types that they rely on.

`tests/test_package.py` runs it with the built wheel, and has type checkers read it.
"""

# Optax has no types, and those of some functions of jax are only partly known.
# pyright: strict, reportMissingTypeStubs=false, reportUnknownMemberType=false

from typing import Any, assert_type

import jax
import jax.numpy as jnp
import numpy as np
import optax

import maxgnr_jax
from maxgnr_jax import aggregators
from maxgnr_jax.aggregators import AggregatorState, Choice, Method, Step

Params = dict[str, jax.Array]
Values = dict[str, jax.Array]
Memory = dict[str, Any]


def losses(params: Params, batch: jax.Array) -> Values:
  output = batch @ params["trunk"]
  return {"mean": (output**2).mean(), "size": (params["trunk"] ** 2).sum()}


def losses_and_size(params: Params, batch: jax.Array) -> tuple[Values, int]:
  return losses(params, batch), batch.size


def stacked_gradients(params: Params, batch: jax.Array) -> None:
  tx = maxgnr_jax.maxgnr(gamma=0.9, num_tasks=2, shared={"trunk": True})
  assert_type(tx, optax.GradientTransformationExtraArgs)
  optimiser = optax.chain(tx, optax.sgd(1e-3))
  opt_state = optimiser.init(params)

  differentiated = maxgnr_jax.value_and_task_grads(losses)
  values, grads = differentiated(params, batch=batch)
  assert_type(values, Values)
  updates, opt_state = optimiser.update(
    grads, opt_state, params, task_mask=np.array([True, True])
  )
  assert_type(updates, optax.Updates)

  names = maxgnr_jax.task_names(values)
  assert_type(names, list[str])
  log = maxgnr_jax.diagnostics(opt_state, names, certificate=True)
  assert_type(log, dict[str, jax.Array])

  with_aux = maxgnr_jax.value_and_task_grads(losses_and_size, has_aux=True)
  (values, size), grads = with_aux(params, batch)
  assert_type(values, Values)
  assert_type(size, int)

  flat = maxgnr_jax.value_and_flat_task_grads(losses, radius=0.1)
  values, (grads, flat_grads) = flat(params, batch)
  assert_type(values, Values)
  flat_state = aggregators.flat_regions(tx).init(params)
  del flat_grads, flat_state


def state_of_maxgnr(opt_state: optax.OptState) -> None:
  state = maxgnr_jax.aggregator_state(opt_state)
  assert_type(state, maxgnr_jax.MaxGNRState | AggregatorState)
  assert_type(state.task_count, jax.Array)
  if isinstance(state, maxgnr_jax.MaxGNRState):
    stats = state.stats
    assert_type(state.weights, jax.Array)
    assert_type(state.gnr, jax.Array)
    assert_type(stats, maxgnr_jax.GradientStats)
    assert_type(state.noise, maxgnr_jax.NoiseAverage | None)
    assert_type(maxgnr_jax.task_gnr(state.weights, stats), jax.Array)
    assert_type(maxgnr_jax.single_task_gnr(stats), jax.Array)
    assert_type(maxgnr_jax.certificate(stats, state.weights), jax.Array)
    assert_type(maxgnr_jax.interference(stats), jax.Array)
    assert_type(maxgnr_jax.retained_gnr(stats, [0, 1]), jax.Array)
    assert_type(maxgnr_jax.group_tasks(stats, 2), list[list[int]])
  else:
    assert_type(state.weights, jax.Array | None)
    assert_type(state.memory, Memory)


def combined_gradient(params: Params, batch: jax.Array) -> None:
  combined = maxgnr_jax.value_and_combined_grad(
    losses, aggregators.mgda(num_tasks=2), refresh_every=4
  )
  assert_type(combined, maxgnr_jax.CombinedGrad[Values])
  state = combined.init(params)
  values, grad, state = combined.value_and_grad(state, params, batch)
  assert_type(values, Values)
  assert_type(grad, optax.Updates)
  assert_type(state, maxgnr_jax.CombinedGradState)


def own_rule(stats: maxgnr_jax.GradientStats) -> jax.Array:
  return 1.0 / (1.0 + stats.noise_norm)


def own_method() -> optax.GradientTransformationExtraArgs:
  def measure(step: Step, memory: Memory) -> tuple[jax.Array, jax.Array]:
    gramian = step.gramian()
    assert_type(gramian, jax.Array)
    squared = gramian.diagonal()
    return squared, jnp.isfinite(squared)

  def choose(squared: jax.Array, active: jax.Array, memory: Memory) -> Choice:
    return Choice(weights=jnp.where(active, squared, 0.0), memory=memory)

  method = Method(measure, choose, measures="gramian")
  return aggregators.aggregator(method, num_tasks=2, smoothing=0.9)


def other_factories() -> list[optax.GradientTransformationExtraArgs]:
  weights = aggregators.mgda_weights(jnp.asarray([[4.0, 0.0], [0.0, 1.0]]))
  assert_type(weights, jax.Array)
  assert_type(maxgnr_jax.projected_newton(), maxgnr_jax.Solver)
  return [
    own_method(),
    maxgnr_jax.maxgnr(solver=maxgnr_jax.Solver(own_rule), num_tasks=2),
    aggregators.pcgrad(key=jax.random.key(0), groups="layer"),
    aggregators.uncertainty(optax.sgd(0.1), num_tasks=2),
    aggregators.gramian_method(aggregators.mgda_weights),
    aggregators.constant_weights([0.5, 0.5]),
  ]


if __name__ == "__main__":
  start = {"trunk": jnp.asarray([1.0, -2.0])}
  rows = jnp.asarray([[1.0, 2.0], [3.0, 4.0]])
  stacked_gradients(start, rows)
  combined_gradient(start, rows)
  for transformation in other_factories():
    state_of_maxgnr(transformation.init(start))
