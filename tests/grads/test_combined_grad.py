"""`value_and_combined_grad` against a loop that is written out."""

import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maxgnr_jax import (
  CombinedGradState,
  aggregators,
  diagnostics,
  maxgnr,
  task_names,
  value_and_combined_grad,
  value_and_task_grads,
)
from tests.helpers import methods
from tests.helpers.examples import random_grads
from tests.helpers.marks import thorough_but
from tests.helpers.traces import jit_with_max_traces
from tests.helpers.trees import assert_trees_close, assert_trees_equal

pytestmark = pytest.mark.usefixtures("quick_compilation")
NUM_TASKS, NUM_STEPS, SIZE = 3, 7, 4
PARAMS = {"w": jnp.linspace(-1.0, 1.0, SIZE), "b": jnp.float32(0.5)}
SCALES = jnp.array([1.0, 0.1, 5.0])


def losses(params, x):
  features = jnp.tanh(params["w"] * x) + params["b"]
  powers = [jnp.mean((features - k) ** 2) for k in range(NUM_TASKS)]
  return {f"task {k}": SCALES[k] * power for k, power in enumerate(powers)}


def vector(params, x):
  return jnp.stack([*losses(params, x).values()])


def batches(seed, num_steps=NUM_STEPS):
  drawn = np.random.default_rng(seed).normal(size=(num_steps, SIZE))
  return jnp.asarray(drawn, jnp.float32)


def walk(combined, params, sequence, **options):
  """Gradients and states of all steps of gradient descent."""
  state, history = combined.init(params), []
  for step, x in enumerate(sequence):
    now = {name: values[step] for name, values in options.items()}
    _, grad, state = combined.value_and_grad(state, params, x, **now)
    params = jax.tree.map(lambda p, g: p - 0.1 * g, params, grad)
    history.append((grad, state))
  return history


@functools.cache
def scanned(refresh_every, method="maxgnr"):
  aggregator = methods.METHODS[method].make(num_tasks=NUM_TASKS)
  combined = value_and_combined_grad(losses, aggregator, refresh_every=refresh_every)

  @jax.jit
  def run(sequence):
    def step(carry, x):
      params, state = carry
      values, grad, state = combined.value_and_grad(state, params, x)
      params = jax.tree.map(lambda p, g: p - 0.1 * g, params, grad)
      return (params, state), (values, grad, state)

    return jax.lax.scan(step, (PARAMS, combined.init(PARAMS)), sequence)[1]

  return run


@functools.cache
def parts(method="maxgnr"):
  """The jitted Jacobian, the aggregator's jitted update, and its `init`."""
  aggregator = methods.METHODS[method].make(num_tasks=NUM_TASKS)
  return jax.jit(jax.jacrev(vector)), jax.jit(aggregator.update), aggregator.init


@settings(max_examples=8)
@given(
  st.integers(0, 2**16), st.sampled_from([1, 3]), st.sampled_from(["maxgnr", "imtl_l"])
)
def test_weights_are_those_of_the_last_refresh(seed, refresh_every, method):
  sequence = batches(seed)
  values, grads, states = scanned(refresh_every, method)(sequence)
  jacobian, update, init = parts(method)
  params, state = PARAMS, init(PARAMS)
  for step, x in enumerate(sequence):
    expected_values, rows = vector(params, x), jacobian(params, x)
    if step % refresh_every == 0:
      _, state = update(rows, state, params, losses=expected_values)
    weights = np.asarray(state.weights)
    expected = jax.tree.map(lambda g, w=weights: np.tensordot(w, g, 1), rows)
    actual = jax.tree.map(lambda g, i=step: g[i], grads)
    for name in PARAMS:
      np.testing.assert_allclose(actual[name], expected[name], rtol=2e-3, atol=1e-4)
    now = jnp.stack([values[name][step] for name in task_names(values)])
    np.testing.assert_allclose(now, expected_values, rtol=1e-4)
    np.testing.assert_allclose(states.aggregator.weights[step], weights, rtol=2e-3)
    # Follow the actual steps, so that rounding errors do not add up.
    params = jax.tree.map(lambda p, g: p - 0.1 * g, params, actual)
  assert states.count[-1] == NUM_STEPS
  assert states.aggregator.count[-1] == -(-NUM_STEPS // refresh_every)


@pytest.mark.parametrize("num_tasks", thorough_but([None], [NUM_TASKS, None]))
def test_a_refresh_in_every_step_equals_the_plain_chain_exactly(
  num_tasks, standard_promotion, usual_compilation
):
  aggregator, adam = maxgnr(num_tasks=num_tasks), optax.adam(1e-2)
  chain = optax.chain(aggregator, adam)
  combined = value_and_combined_grad(losses, aggregator, refresh_every=1)

  @jax.jit
  def plain_step(params, opt_state, x):
    values, grads = value_and_task_grads(losses)(params, x)
    updates, opt_state = chain.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, values

  @jax.jit
  def combined_step(params, opt_state, x):
    values, grad, state = combined.value_and_grad(opt_state[0], params, x)
    updates, adam_state = adam.update(grad, opt_state[1], params)
    params = optax.apply_updates(params, updates)
    return params, (state, adam_state), values

  plain = (PARAMS, chain.init(PARAMS))
  ours = (PARAMS, (combined.init(PARAMS), adam.init(PARAMS)))
  for x in batches(0):
    *plain, plain_values = plain_step(*plain, x)
    *ours, our_values = combined_step(*ours, x)
    assert_trees_equal(our_values, plain_values)
    assert_trees_equal(ours[0], plain[0])
  states = (ours[1][0].aggregator, ours[1][1])
  assert_trees_equal(states, tuple(plain[1]))


def test_a_step_between_refreshes_takes_one_backward_pass():
  forward, backward = [], []

  @jax.custom_vjp
  def trunk(w):
    return jnp.sin(w)

  def trunk_forward(w):
    jax.debug.callback(lambda _: forward.append(1), w)
    return jnp.sin(w), w

  def trunk_backward(w, cotangent):
    jax.debug.callback(lambda _: backward.append(1), cotangent)
    return (cotangent * jnp.cos(w),)

  trunk.defvjp(trunk_forward, trunk_backward)

  def fun(w):
    hidden = trunk(w)
    return jnp.stack([jnp.sum(hidden**power) for power in (1, 2, 3)])

  combined = value_and_combined_grad(fun, maxgnr(num_tasks=3), refresh_every=3)
  step, w = jax.jit(combined.value_and_grad), jnp.arange(4.0)
  state, passes = combined.init(w), []
  for _ in range(5):
    _, grad, state = step(state, w)
    jax.block_until_ready(grad)
    jax.effects_barrier()
    passes.append((len(forward), len(backward)))
    forward.clear(), backward.clear()
  assert passes == [(1, 3), (1, 1), (1, 1), (1, 3), (1, 1)]


@pytest.mark.parametrize(("num_tasks", "num_traces"), [(NUM_TASKS, 1), (None, 2)])
def test_steps_are_not_traced_again(num_tasks, num_traces):
  combined = value_and_combined_grad(
    losses, maxgnr(num_tasks=num_tasks), refresh_every=2
  )
  step = jit_with_max_traces(combined.value_and_grad, num_traces)
  state = combined.init(PARAMS)
  for x in batches(0):
    _, _, state = step(state, PARAMS, x)
  assert (state.count, state.aggregator.count) == (NUM_STEPS, -(-NUM_STEPS // 2))


def test_the_caller_may_choose_which_steps_refresh():
  aggregator = maxgnr(num_tasks=NUM_TASKS)
  by_count = value_and_combined_grad(losses, aggregator, refresh_every=3)
  step = jax.jit(by_count.value_and_grad, static_argnames="refresh")
  jitted = by_count._replace(value_and_grad=step)
  sequence = batches(0)
  said = [n % 3 == 0 for n in range(len(sequence))]
  expected = walk(by_count, PARAMS, sequence)
  for actual in (
    walk(jitted, PARAMS, sequence, refresh=said),
    walk(jitted, PARAMS, sequence, refresh=[None] * len(sequence)),
  ):
    for now, then in zip(actual, expected, strict=True):
      assert_trees_close(now, then, rtol=1e-3, atol=1e-4)
  never = walk(jitted, PARAMS, sequence[:1], refresh=[False])
  np.testing.assert_array_equal(never[0][1].aggregator.weights, np.float32(1 / 3))


# The update of every other method is the sum of the gradients times `weights`; these
# have none in their states.
NO_WEIGHTED_SUM = {
  "db_mtl",
  "flat_regions",
  "graddrop",
  "gradient_dropout",
  "moco",
  "trimmed_mean",
}


@pytest.mark.parametrize("name", [*sorted(NO_WEIGHTED_SUM), "maxgnr", "mgda", "imtl_l"])
def test_updates_are_weighted_sums_except_for_the_listed_methods(name):
  tx, params = methods.transformation(name), methods.PARAMS
  state, update = tx.init(params), jax.jit(tx.update)
  for seed in range(3):  # later steps depend on the state
    grads = random_grads(params, NUM_TASKS, seed)
    updates, state = update(grads, state, params)
  weights = getattr(state, "weights", None)
  assert (weights is None) == (name in NO_WEIGHTED_SUM)
  if weights is None:
    return
  weights = np.asarray(weights, np.float64)
  close = [
    np.allclose(u, np.tensordot(weights, g, 1), rtol=1e-3, atol=1e-3)
    for u, g in zip(jax.tree.leaves(updates), jax.tree.leaves(grads), strict=True)
  ]
  assert all(close)


def test_the_docstring_lists_the_methods_without_a_weighted_sum():
  for name in NO_WEIGHTED_SUM:
    assert f":func:`aggregators.{name}`" in value_and_combined_grad.__doc__


@pytest.mark.parametrize("name", ["dtp", "famo", "krum", "maxgnr", "mgda", "pcgrad"])
def test_methods_of_every_kind_step_inside_cond(name):
  aggregator = methods.METHODS[name].make(num_tasks=NUM_TASKS)
  combined = value_and_combined_grad(losses, aggregator, refresh_every=2)
  kpis = jnp.full((NUM_TASKS,), 0.5)
  extra_args = {"kpis": kpis} if name == "dtp" else {}
  state = jax.eval_shape(combined.init, PARAMS)
  step = functools.partial(combined.value_and_grad, **extra_args)
  values, grad, after = jax.eval_shape(step, state, PARAMS, batches(0)[0])
  chex.assert_trees_all_equal_shapes(grad, PARAMS)
  assert set(values) == set(task_names(values))
  chex.assert_trees_all_equal_shapes_and_dtypes(state, after)


def test_combined_grad_takes_auxiliary_data_microbatches_and_argument_positions():
  def fun(x, params, mode):
    assert mode == "sum"
    rows = jax.vmap(vector, (None, 0))(params, x)
    return jnp.mean(rows, axis=0), {"mean": jnp.mean(x)}

  history: dict = {None: [], 2: []}
  for microbatches, steps in history.items():
    combined = value_and_combined_grad(
      fun,
      maxgnr(num_tasks=NUM_TASKS),
      refresh_every=2,
      argnum=1,
      has_aux=True,
      microbatches=microbatches,
      batch_argnums=0,
    )
    state = combined.init(PARAMS)
    for x in batches(1, 8).reshape(2, 4, SIZE):  # a refresh and a step between
      (values, aux), grad, state = combined.value_and_grad(state, x, PARAMS, "sum")
      assert aux["mean"].shape == (() if microbatches is None else (2,))
      steps.append((values, jnp.mean(aux["mean"]), grad))
  assert_trees_close(history[2], history[None], rtol=1e-3, atol=1e-5)


def test_the_aggregator_gets_losses_extra_arguments_and_parameters():
  seen = {}
  inner = maxgnr(num_tasks=NUM_TASKS)

  def update(grads, state, params=None, **extra_args):
    seen.update(extra_args, params=params)
    return inner.update(grads, state, params)

  aggregator = optax.GradientTransformationExtraArgs(inner.init, update)
  combined = value_and_combined_grad(losses, aggregator, refresh_every=2)
  state, x = combined.init(PARAMS), batches(0)[0]
  values, _, _ = combined.value_and_grad(state, PARAMS, x, kpis="some", refresh=True)
  assert set(seen) == {"losses", "kpis", "params"}
  assert seen["params"] is PARAMS
  assert_trees_close(seen["losses"], values)
  combined.value_and_grad(state, PARAMS, x, losses="others", refresh=True)
  assert seen["losses"] == "others"


@pytest.mark.parametrize("as_dict", [False, True])
def test_an_inactive_task_has_no_weight_between_refreshes(as_dict):
  mask = {name: jnp.asarray(name != "task 1") for name in losses(PARAMS, batches(0)[0])}
  active = mask if as_dict else jnp.stack([*mask.values()])
  combined = value_and_combined_grad(
    losses, aggregators.constant_weights([0.2, 0.3, 0.5]), refresh_every=2
  )
  _, grad, state = combined.value_and_grad(
    combined.init(PARAMS), PARAMS, batches(0)[0], task_mask=active, refresh=False
  )
  assert state.aggregator.count == 0
  rows = jax.jacrev(vector)(PARAMS, batches(0)[0])
  held = np.array([1, 0, 1]) / 3  # the equal weights that the state began with
  for name in PARAMS:
    expected = np.tensordot(held, rows[name], 1)
    np.testing.assert_allclose(grad[name], expected, rtol=1e-5)


class Named(NamedTuple):
  seg: jax.Array
  depth: jax.Array


def two_losses(params):  # the gradients are [2, 0] and [0, 300]
  return Named(params[0] ** 2, 25 * params[1] ** 3)


def weighted_step(fun, refresh, **options):
  """A step with the weights 0.25 and 0.75 in the order of the names' text."""
  aggregator = aggregators.constant_weights([0.25, 0.75])
  combined = value_and_combined_grad(fun, aggregator, refresh_every=2)
  state, params = combined.init(jnp.zeros(2)), jnp.array([1.0, 2.0])
  inner = state.aggregator._replace(weights=jnp.array([0.25, 0.75]))
  state = state._replace(aggregator=inner)
  return combined.value_and_grad(state, params, refresh=refresh, **options)


@pytest.mark.parametrize("refresh", [True, False])
def test_weights_and_masks_meet_their_tasks_by_name_in_both_kinds_of_steps(refresh):
  values, grad, _ = weighted_step(two_losses, refresh)
  assert isinstance(values, Named)
  np.testing.assert_allclose(grad, [1.5, 75], rtol=1e-6)
  for mask in ({"seg": True, "depth": False}, Named(True, False), [False, True]):
    _, grad, _ = weighted_step(two_losses, refresh, task_mask=mask)
    np.testing.assert_allclose(grad, [1.5, 0], rtol=1e-6)


@pytest.mark.parametrize("refresh", [True, False])
def test_a_mask_with_other_names_than_the_losses_is_refused(refresh):
  for mask, found in (
    ({"sge": True, "depth": False}, r"missing \['seg'\], unknown \['sge'\]"),
    ({"seg": True}, r"missing \['depth'\], unknown \[\]"),
  ):
    with pytest.raises(ValueError, match=f"`task_mask` must name .*{found}"):
      weighted_step(two_losses, refresh, task_mask=mask)


@pytest.mark.parametrize(
  ("fun", "error"),
  [
    (lambda params: {"a": params}, TypeError),
    (lambda params: (params[0], params[1], params[0]), ValueError),
  ],
  ids=["a vector in a dict", "three"],
)
def test_a_step_between_refreshes_refuses_other_losses_than_one_per_weight(fun, error):
  with pytest.raises(error, match=r"must return K losses|gradients for 3 tasks"):
    weighted_step(fun, False)


def test_a_nan_loss_of_weight_zero_leaves_the_gradient_finite():
  def fun(w, labelled):
    error = jnp.where(labelled, (w - 1.0) ** 2, 0.0)
    total = jnp.sum(error) / jnp.maximum(jnp.sum(labelled, dtype=jnp.float32), 1.0)
    return jnp.sum(w**2), total, jnp.sum(w) + jnp.nan

  weights = [0.25, 0.25, 0.0]
  aggregator = aggregators.constant_weights(weights)
  combined = value_and_combined_grad(fun, aggregator, refresh_every=2)
  w, none = jnp.arange(3.0), jnp.zeros(3, bool)
  state = combined.init(w)
  state = state._replace(
    aggregator=state.aggregator._replace(weights=jnp.array(weights))
  )
  values, grad, _ = combined.value_and_grad(state, w, none, refresh=False)
  assert np.isnan(values[2])
  np.testing.assert_allclose(grad, 0.5 * w)


def test_schedules_count_refreshes_and_diagnostics_read_the_state():
  gammas = jnp.array([0.9, 0.5, 0.1, 0.7])
  aggregator = optax.inject_hyperparams(maxgnr, static_args=("num_tasks",))(
    gamma=lambda step: gammas[step], num_tasks=NUM_TASKS
  )
  combined = value_and_combined_grad(losses, aggregator, refresh_every=3)
  history = walk(combined, PARAMS, batches(0))
  used = [state.aggregator.hyperparams["gamma"] for _, state in history]
  np.testing.assert_array_equal(used, gammas[np.array([0, 0, 0, 1, 1, 1, 2])])
  log = diagnostics(history[-1][1], task_names(losses(PARAMS, batches(0)[0])))
  assert log["weights/task 0"] == optax.tree.get(history[-1][1], "weights")[0]


@pytest.mark.thorough
def test_vmap_over_seeds_equals_a_loop():
  combined = value_and_combined_grad(losses, maxgnr(num_tasks=3), refresh_every=2)
  step = jax.vmap(combined.value_and_grad, (0, None, 0))
  state = combined.init(PARAMS)
  states = jax.tree.map(lambda x: jnp.stack([x, x + x.dtype.type(1)]), state)
  _, grads, after = step(states, PARAMS, batches(0)[:2])
  np.testing.assert_array_equal(after.aggregator.count, [1, 1])  # one of them refreshed
  assert grads["w"].shape == (2, SIZE)


@pytest.mark.parametrize(
  "aggregator",
  [
    optax.chain(maxgnr(), optax.clip(1.0)),
    aggregators.flat_regions(maxgnr()),
    optax.adam(1e-3),
  ],
  ids=["chain", "flat_regions", "adam"],
)
def test_an_aggregator_without_weights_in_its_state_is_refused(aggregator):
  combined = value_and_combined_grad(losses, aggregator, refresh_every=2)
  with pytest.raises(
    TypeError, match=r"keeps the weights \[K\].*pass the aggregator al"
  ):
    combined.init(PARAMS)


@pytest.mark.parametrize("value", [0, 2.5, None])
def test_refresh_every_must_be_an_integer_of_at_least_one(value):
  with pytest.raises(
    ValueError, match="`refresh_every` must be an integer of at least"
  ):
    value_and_combined_grad(losses, maxgnr(), refresh_every=value)


def test_aggregator_must_be_a_gradient_transformation():
  with pytest.raises(TypeError, match="`aggregator` must be an `optax"):
    value_and_combined_grad(losses, maxgnr, refresh_every=2)


def test_refresh_must_not_be_traced():
  combined = value_and_combined_grad(losses, maxgnr(num_tasks=3), refresh_every=2)
  step = jax.jit(
    lambda refresh: combined.value_and_grad(
      combined.init(PARAMS), PARAMS, batches(0)[0], refresh=refresh
    )
  )
  with pytest.raises(TypeError, match=r'`refresh` must be None.*static_argnames="ref'):
    step(True)


def test_the_state_of_the_aggregator_alone_is_refused():
  combined = value_and_combined_grad(losses, maxgnr(num_tasks=3), refresh_every=2)
  state = combined.init(PARAMS)
  assert isinstance(state, CombinedGradState)
  with pytest.raises(TypeError, match="must be the CombinedGradState"):
    combined.value_and_grad(state.aggregator, PARAMS, batches(0)[0])
