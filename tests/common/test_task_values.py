"""Losses and KPIs reach the methods, and invalid ones are refused."""

import collections
import functools
import re

import chex
import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training.train_state import TrainState

from maxgnr_jax import aggregators, value_and_task_grads
from tests.helpers import methods
from tests.helpers.examples import flat, random_grads, scanned, task_gradients
from tests.helpers.marks import thorough_but

pytestmark = pytest.mark.usefixtures("quick_compilation")
NUM_TASKS = 3
SGD = optax.sgd(0.1)
OF_LOSSES = {
  "bmtl": aggregators.bmtl,
  "db_mtl": aggregators.db_mtl,
  "dwa": functools.partial(aggregators.dwa, 1),
  "famo": functools.partial(aggregators.famo, SGD),
  "gls": aggregators.gls,
  "go4align": aggregators.go4align,
  "gradnorm": functools.partial(aggregators.gradnorm, optimizer=SGD),
  "igb": functools.partial(aggregators.igb, 1, 1),
  "imtl_l": functools.partial(aggregators.imtl_l, SGD),
  "slaw": functools.partial(aggregators.slaw, 0.5),
  "stch": aggregators.stch,
  "uncertainty": functools.partial(aggregators.uncertainty, SGD),
}
OF_KPIS = {"dtp": aggregators.dtp}
OTHERS_WITH_MEMORY = {
  "excess_mtl": functools.partial(aggregators.excess_mtl, 0.5),
  "gradvac": aggregators.gradvac,
  "moco": aggregators.moco,
  "modo": aggregators.modo,
  "random_weights": aggregators.random_weights,
  "sdmgrad": aggregators.sdmgrad,
}
GRADS = jnp.asarray(task_gradients(0, NUM_TASKS, size=4), jnp.float32)
PARAMS = jnp.zeros(4)
LOSSES = jnp.array([0.5, 2.0, 1.0])
Named = collections.namedtuple("Named", "c a b")


def update_with(tx, **extra_args):
  return tx.update(GRADS, tx.init(PARAMS), PARAMS, **extra_args)


@pytest.mark.parametrize(
  "losses",
  [
    tuple(LOSSES),
    list(LOSSES),
    {"c": LOSSES[2], "a": LOSSES[0], "b": LOSSES[1]},
    {"a": {"x": LOSSES[0], "y": LOSSES[1]}, "b": LOSSES[2]},
    collections.OrderedDict(c=LOSSES[2], a=LOSSES[0], b=LOSSES[1]),
    Named(LOSSES[2], LOSSES[0], LOSSES[1]),
    LOSSES.astype(jnp.float16),
    np.array([0.5, 2.0, 1.0]),
    [0.5, 2, 1],
  ],
  ids=[
    "tuple",
    "list",
    "dict",
    "nested",
    "ordered",
    "named tuple",
    "half precision",
    "NumPy",
    "Python",
  ],
)
def test_losses_may_be_a_vector_or_a_pytree_of_scalars(losses):
  updates, state = update_with(aggregators.gls(), losses=losses)
  expected_updates, expected = update_with(aggregators.gls(), losses=LOSSES)
  np.testing.assert_array_equal(state.weights, expected.weights)
  np.testing.assert_array_equal(updates, expected_updates)
  assert len(set(state.weights.tolist())) == NUM_TASKS


@pytest.mark.parametrize("name", [*OF_LOSSES, *OF_KPIS])
def test_a_method_without_its_losses_or_kpis_explains_how_to_pass_them(name):
  needed = "losses" if name in OF_LOSSES else "kpis"
  tx = (OF_LOSSES | OF_KPIS)[name]()
  message = (
    rf"needs `{needed}`.*`tx.update\(grads, opt_state, params, {needed}={needed}"
  )
  with pytest.raises(TypeError, match=message):
    update_with(tx)
  with pytest.raises(TypeError, match=rf"optimizer.update\(model, grads, {needed}="):
    update_with(tx, **{needed: None})


@pytest.mark.parametrize(
  "wrong",
  [
    jnp.ones(2),
    jnp.ones((3, 1)),
    jnp.ones(()),
    {"a": 1.0, "b": 2.0},
    {"a": jnp.ones(3), "b": 1.0, "c": 2.0},
    {"a": jnp.ones(3)},
    [],
  ],
  ids=[
    "two",
    "matrix",
    "number",
    "dict of two",
    "a vector among them",
    "a vector in a dict",
    "none",
  ],
)
@pytest.mark.parametrize("name", ["losses", "losses_after_step", "kpis"])
def test_losses_and_kpis_must_be_one_value_per_task(name, wrong):
  tx = aggregators.dtp() if name == "kpis" else aggregators.famo(SGD)
  right = {"losses": LOSSES, "losses_after_step": LOSSES, "kpis": LOSSES}
  with pytest.raises(
    ValueError, match=rf"`{name}` must hold one value per task.*\[3\]"
  ):
    update_with(tx, **(right | {name: wrong}))


def test_a_mask_is_matched_by_name_whatever_holds_the_losses():
  def losses(params):  # the gradients are [2, 0], [0, 300] and [0, 0]
    return Named(params[0] ** 2, 25 * params[1] ** 3, 0.0 * params[0])

  tx, params = aggregators.equal_weights(), jnp.array([1.0, 2.0])
  values, grads = value_and_task_grads(losses)(params)
  for mask in (
    {"c": True, "b": False, "a": False},
    Named(c=True, a=False, b=False),
    [False, False, True],
  ):
    for known in ({}, {"losses": values}):
      updates, _ = tx.update(grads, tx.init(params), params, task_mask=mask, **known)
      np.testing.assert_array_equal(updates, [2, 0])


@pytest.mark.parametrize(
  ("name", "argument"),
  [
    *((name, "task_mask") for name in methods.METHODS),
    ("dtp", "kpis"),
    ("famo", "losses_after_step"),
  ],
)
def test_names_that_differ_from_those_of_the_losses_are_refused(name, argument):
  tx, params = methods.transformation(name), methods.PARAMS
  update = functools.partial(
    jax.eval_shape,
    tx.update,
    random_grads(params, NUM_TASKS),
    jax.eval_shape(tx.init, params),
    params,
    losses=Named(*LOSSES),
  )
  for wrong, missing, unknown in (
    ("abd", ["c"], ["d"]),
    ("ab", ["c"], []),
    ("abcd", [], ["d"]),
  ):
    values = dict.fromkeys(wrong, argument == "task_mask" or 0.5)
    message = re.escape(f"missing {missing}, unknown {unknown}")
    with pytest.raises(ValueError, match=f"`{argument}` must name .*{message}"):
      update(**{argument: values})


def test_positions_written_as_text_are_not_taken_for_numbers_in_silence():
  tx, grads = aggregators.equal_weights(), jnp.eye(11)
  update = functools.partial(
    tx.update, grads, tx.init(jnp.zeros(11)), losses=jnp.ones(11)
  )
  updates, _ = update(task_mask={task: task == 10 for task in range(11)})
  np.testing.assert_array_equal(updates, grads[10])
  with pytest.raises(ValueError, match="in the same order"):
    update(task_mask={str(task): task == 10 for task in range(11)})


@pytest.mark.parametrize(
  ("make", "argument"),
  [
    (aggregators.constant_weights, "weights"),
    (aggregators.ngdiff, "signs"),
    (aggregators.stch, "preferences"),
    (aggregators.stch, "ideal"),
    (aggregators.famo, "min_losses"),
    (aggregators.graddrop, "leak"),
  ],
)
@pytest.mark.parametrize("values", [Named(1, 1, 1), Named(1, 1, 1)._asdict()])
def test_arguments_of_factories_that_are_read_by_position_have_no_names(
  make, argument, values
):
  message = rf"`{argument}` must be a list or a vector .*\['a', 'b', 'c'\]"
  with pytest.raises(TypeError, match=message):
    make(**{argument: values})
  make(**{argument: list(values) if isinstance(values, tuple) else [1, 1, 1]})


@pytest.mark.parametrize("name", ["modo", "sdmgrad", "flat_regions"])
@pytest.mark.parametrize("others", [GRADS[:2], GRADS[:, :1], {"w": GRADS}])
def test_second_gradients_must_have_the_shapes_of_the_first(name, others):
  if name == "flat_regions":
    tx, argument = aggregators.flat_regions(aggregators.mgda()), "flat_grads"
  else:
    tx, argument = getattr(aggregators, name)(), "independent_grads"
  with pytest.raises(
    ValueError, match=f"`{argument}` must be stacked gradients of the"
  ):
    update_with(tx, **{argument: others})


@pytest.mark.parametrize("step", thorough_but([0], [0, 2]))
@pytest.mark.parametrize("name", [*OF_LOSSES, *OF_KPIS])
def test_non_finite_losses_and_kpis_leave_the_state_finite(name, step):
  tx = (OF_LOSSES | OF_KPIS)[name](num_tasks=NUM_TASKS)
  values = np.random.default_rng(0).uniform(0.2, 0.9, (6, NUM_TASKS))
  values[step] = [0.5, np.nan, np.inf]
  values = jnp.asarray(values, jnp.float32)
  weights, updates, state = scanned(
    tx, jnp.stack([GRADS] * 6), losses=values, kpis=values
  )
  chex.assert_tree_all_finite((weights, updates, state))
  assert (weights is None) == (name == "db_mtl")
  assert weights is None or np.all(weights[-1] > 0)


@pytest.mark.parametrize("name", [*OF_LOSSES, *OF_KPIS, *OTHERS_WITH_MEMORY])
def test_the_number_of_tasks_may_come_from_the_first_gradients(name):
  make = (OF_LOSSES | OF_KPIS | OTHERS_WITH_MEMORY)[name]

  def first_step(num_tasks):
    tx = make(num_tasks=num_tasks)
    state = tx.init(PARAMS)
    return tx.update(GRADS, state, PARAMS, losses=LOSSES, kpis=LOSSES / 3)

  def numbers(result):
    leaves = jax.tree.leaves(result)
    return flat([x for x in leaves if jnp.issubdtype(x.dtype, jnp.number)])

  # Later steps have a state with the same shapes.
  actual, expected = jax.jit(lambda: (first_step(None), first_step(NUM_TASKS)))()
  chex.assert_trees_all_equal_shapes(actual, expected)
  np.testing.assert_allclose(numbers(actual), numbers(expected), rtol=1e-5, atol=1e-6)


def task_losses(params, x):
  return {"far": jnp.mean((x @ params - 3.0) ** 2), "near": jnp.mean((x @ params) ** 2)}


X = jnp.asarray(np.random.default_rng(0).normal(size=(8, 4)), jnp.float32)


def by_hand():
  """The parameters after one step of gradient descent with BMTL's weights."""
  losses, grads = value_and_task_grads(task_losses)(jnp.ones(4), X)
  weights = aggregators.bmtl_weights(jnp.stack([losses["far"], losses["near"]]), 2.0)
  return 1.0 - 0.1 * np.asarray(weights) @ np.asarray(grads)


def bmtl_and_descent():
  return optax.chain(aggregators.bmtl(2.0), SGD)


def test_losses_pass_through_a_chain():
  tx, params = bmtl_and_descent(), jnp.ones(4)
  losses, grads = value_and_task_grads(task_losses)(params, X)
  updates, _ = tx.update(grads, tx.init(params), params, losses=losses)
  np.testing.assert_allclose(params + updates, by_hand(), rtol=1e-5)


def test_losses_pass_through_injected_hyperparameters(standard_promotion):
  bmtl = optax.inject_hyperparams(aggregators.bmtl)(temperature=lambda step: 2.0 + step)
  tx, params = optax.chain(bmtl, SGD), jnp.ones(4)
  losses, grads = value_and_task_grads(task_losses)(params, X)
  updates, _ = tx.update(grads, tx.init(params), params, losses=losses)
  np.testing.assert_allclose(params + updates, by_hand(), rtol=1e-5)


class Weights(nnx.Module):
  def __init__(self):
    self.w = nnx.Param(jnp.ones(4))


def test_losses_pass_through_an_nnx_optimizer(standard_promotion):
  model = Weights()
  optimizer = nnx.Optimizer(model, bmtl_and_descent(), wrt=nnx.Param)
  params = nnx.state(model, nnx.Param)
  losses, grads = value_and_task_grads(lambda p: task_losses(p["w"][...], X))(params)
  optimizer.update(model, grads, losses=losses)
  np.testing.assert_allclose(model.w[...], by_hand(), rtol=1e-5)


class LinenWeights(flax.linen.Module):
  @flax.linen.compact
  def __call__(self, x):
    return x @ self.param("w", flax.linen.initializers.ones, (4,))


def test_losses_pass_beside_a_linen_train_state(standard_promotion):
  model = LinenWeights()
  params = model.init(jax.random.key(0), X)["params"]
  state = TrainState.create(apply_fn=model.apply, params=params, tx=bmtl_and_descent())
  losses, grads = value_and_task_grads(lambda p: task_losses(p["w"], X))(state.params)
  updates, opt_state = state.tx.update(
    grads, state.opt_state, state.params, losses=losses
  )
  state = state.replace(
    step=state.step + 1,
    params=optax.apply_updates(state.params, updates),
    opt_state=opt_state,
  )
  np.testing.assert_allclose(state.params["w"], by_hand(), rtol=1e-5)
  with pytest.raises(TypeError, match=r"`TrainState` of flax\.linen passes no extra"):
    state.apply_gradients(grads=grads)
