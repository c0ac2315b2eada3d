"""`value_and_combined_grad` by the cheapest way, against stacked gradients."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from maxgnr_jax import (
  aggregators,
  maxgnr,
  value_and_combined_grad,
  value_and_task_grads,
)
from maxgnr_jax.aggregators._by_passes import STACKED as BY_STACKING
from tests.helpers import methods
from tests.helpers.marks import thorough_but
from tests.helpers.trees import assert_trees_close

pytestmark = pytest.mark.usefixtures("quick_compilation")
TASKS, ROWS, WIDTH = 4, 8, 5
COORDINATES = ("graddrop", "gradient_dropout", "trimmed_mean", "moco", "db_mtl")


def draw(*shape):
  return jnp.asarray(np.random.default_rng(sum(shape)).normal(size=shape), jnp.float32)


PARAMS = {
  "first": {"kernel": draw(3, WIDTH), "bias": draw(WIDTH)},
  "last": {"kernel": draw(WIDTH, WIDTH), "bias": draw(WIDTH)},
  "heads": [draw(WIDTH, k + 1) for k in range(TASKS)],
}
X = draw(ROWS, 3)
# A factor for each loss, and which losses have a derivative that is not finite.
USUAL = {"scale": jnp.array([1.0, 0.1, 5.0, 1.0]), "spoiled": jnp.zeros(TASKS)}
SCENES = {
  "usual": USUAL,
  "a loss is not finite": USUAL | {"scale": jnp.array([1.0, jnp.nan, 5.0, 1.0])},
  "a gradient is not finite": USUAL | {"spoiled": jnp.array([0.0, 0.0, 1.0, 0.0])},
  "a task without labels": USUAL | {"scale": jnp.array([1.0, 0.1, 0.0, 1.0])},
  "nothing is finite": USUAL | {"scale": jnp.full(TASKS, jnp.nan)},
}


def losses(params, x, scene):
  """Losses of a small network with a head per task, a dict in another order."""
  hidden = jnp.tanh(x @ params["first"]["kernel"] + params["first"]["bias"][None])
  features = jnp.tanh(hidden @ params["last"]["kernel"] + params["last"]["bias"][None])
  made = {}
  for k, head in reversed(list(enumerate(params["heads"]))):
    loss = scene["scale"][k] * jnp.mean((features @ head - k) ** 2)
    # Finite, with a derivative that is not, if spoiled: that of a root at 0.
    inside = jnp.where(scene["spoiled"][k] > 0, jnp.sum(features * 0.0), 1.0)
    made[f"task {k}"] = loss + 0.0 * jnp.sqrt(inside)
  return made


def last_bias(params):
  """Selects the bias of the last layer that the tasks share."""
  mask = jax.tree.map(lambda _: False, params)
  return mask | {"last": {"kernel": False, "bias": True}}


def assert_as_stacked(aggregator, scenes, rtol=2e-4, jit=jax.jit, mask=None, **options):
  """Compares gradients and states of some steps with those of stacked gradients."""
  fun = options.pop("fun", losses)
  combined = value_and_combined_grad(fun, aggregator, **options)
  stacked = value_and_task_grads(losses)

  @jit
  def ours(state, scene):
    return combined.value_and_grad(state, PARAMS, X, scene, task_mask=mask)

  @jax.jit
  def expected(state, scene):
    values, grads = stacked(PARAMS, X, scene)
    return aggregator.update(grads, state, PARAMS, losses=values, task_mask=mask)

  state, after = combined.init(PARAMS), aggregator.init(PARAMS)
  for scene in scenes:
    _, grad, state = ours(state, SCENES[scene])
    expected_grad, after = expected(after, SCENES[scene])
    assert all(jnp.all(jnp.isfinite(g)) for g in jax.tree.leaves(grad))
    largest = max(float(jnp.max(jnp.abs(g))) for g in jax.tree.leaves(expected_grad))
    assert_trees_close(grad, expected_grad, rtol=rtol, atol=rtol * (largest or 1.0))
    assert_trees_close(state.aggregator, after, rtol=10 * rtol, atol=1e-5)


KINDS = {
  "losses": aggregators.uncertainty(optax.sgd(0.1), num_tasks=TASKS),
  "gramian": aggregators.mgda(num_tasks=TASKS),
  "gradients of a part": maxgnr(num_tasks=TASKS, shared=last_bias),
  "sketches": maxgnr(num_tasks=TASKS, sketch=31),
}


@pytest.mark.parametrize("kind", thorough_but(["sketches"], KINDS))
def test_the_update_is_that_of_stacked_gradients_whatever_is_not_finite(kind):
  scenes = ["usual", "a loss is not finite", "usual", "a gradient is not finite"]
  scenes += ["a task without labels", "nothing is finite", "usual"]
  assert_as_stacked(KINDS[kind], scenes)


@pytest.mark.parametrize(
  "kind", thorough_but(["gramian"], ["losses", "gramian", "sketches"])
)
def test_masked_tasks_spoil_nothing(kind):
  mask = jnp.array([True, False, True, True])
  scenes = ["usual", "a loss is not finite", "usual"]
  assert_as_stacked(KINDS[kind], scenes, mask=mask)


@pytest.mark.parametrize("kind", thorough_but(["sketches"], ["losses", "sketches"]))
def test_microbatches_with_auxiliary_data(kind):
  def fun(params, x, scene):
    return losses(params, x, scene), {"rows": jnp.mean(x)}

  options = {"fun": fun, "has_aux": True, "microbatches": 2}
  scenes = ["usual", "a loss is not finite", "usual"]
  assert_as_stacked(KINDS[kind], scenes, rtol=1e-3, **options)


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["gramian", "sketches"])
def test_without_jit(kind):
  scenes = ["usual", "a gradient is not finite"]
  assert_as_stacked(KINDS[kind], scenes, jit=lambda fun: fun)


@pytest.mark.parametrize("tasks_at_once", thorough_but([1], [None, 1]))
def test_losses_as_a_vector(tasks_at_once):
  def fun(params, x, scene):
    made = losses(params, x, scene)
    return jnp.stack([made[name] for name in sorted(made)])

  options = {"fun": fun, "tasks_at_once": tasks_at_once}
  assert_as_stacked(KINDS["sketches"], ["usual", "usual"], **options)


@pytest.mark.parametrize(
  "factory", thorough_but([maxgnr], [maxgnr, aggregators.fairgrad, aggregators.slaw])
)
def test_injected_hyperparameters_keep_the_cheap_way(factory):
  name = {maxgnr: "gamma", aggregators.fairgrad: "alpha"}.get(factory, "beta")
  static = {"sketch": 31} if factory is maxgnr else {}
  inject = optax.inject_hyperparams(factory, static_args=tuple(static))
  schedule = optax.linear_schedule(0.5, 0.2, 4)
  tx = inject(**{name: schedule}, num_tasks=TASKS, **static)
  combined = value_and_combined_grad(losses, tx)
  text = jax.jit(combined.value_and_grad).lower(combined.init(PARAMS), PARAMS, X, USUAL)
  stacked = f"tensor<{TASKS}x{WIDTH}x{WIDTH}xf32>"
  # The passes of FairGrad go side by side, and each layer's gradients are stacked.
  assert (stacked in text.as_text()) == (factory is aggregators.fairgrad)
  if factory is maxgnr:
    assert_as_stacked(tx, ["usual", "usual"])


def way(aggregator, side_by_side=True, **extra_args):
  """What an aggregator measures by passes, or ``BY_STACKING``."""
  state = aggregator.init(PARAMS)
  found = aggregator.update.way(state, PARAMS, extra_args, side_by_side=side_by_side)
  return found.measures


STACKED = {"maxgnr", "maxgnr-paper", "excess_mtl", *COORDINATES}
NOTHING = {
  *("bmtl", "constant_weights", "dtp", "dwa", "equal_weights", "famo", "gls"),
  *("go4align", "igb", "imtl_l", "random_weights", "slaw", "stch", "uncertainty"),
}


def test_each_method_is_served_by_the_cheapest_way():
  for name, row in methods.METHODS.items():
    if name == "flat_regions":  # it takes two sets of gradients
      continue
    expected = (
      BY_STACKING if name in STACKED else "nothing" if name in NOTHING else "gramian"
    )
    expected = "sketches" if name.endswith("sketch") else expected
    assert way(row.make(num_tasks=TASKS)) == expected, name


def test_the_way_depends_on_what_is_measured():
  assert way(maxgnr(sketch=31)) == "sketches"
  assert way(maxgnr(sketch=31, groups="layer")) == BY_STACKING
  assert way(aggregators.mgda(sketch=31)) == "sketches"
  assert way(aggregators.mgda(), side_by_side=False) == BY_STACKING
  for factory in (maxgnr, aggregators.mgda, aggregators.excess_mtl):
    assert way(factory(shared=last_bias)) == "gradients"
  assert way(aggregators.modo(), independent_grads=PARAMS) == BY_STACKING


def test_a_transformation_around_the_aggregator_gets_stacked_gradients():
  inner = aggregators.mgda(num_tasks=TASKS)

  def update(grads, state, params=None, **extra_args):
    return inner.update(jax.tree.map(jnp.sign, grads), state, params, **extra_args)

  tx = optax.GradientTransformationExtraArgs(inner.init, update)
  assert_as_stacked(tx, ["usual"])


LAYERS, WIDE, MANY = 8, 160, 3
DEEP = {
  "layers": [draw(WIDE, WIDE) / 10 for _ in range(LAYERS)],
  "bias": jnp.zeros(WIDE),
  "heads": [draw(WIDE, k + 1) for k in range(MANY)],
}


def deep_losses(params, x):
  for kernel in params["layers"]:
    x = jnp.tanh(x @ kernel)
  x = x + params["bias"][None]
  return [jnp.mean((x @ head - 1.0) ** 2) for head in params["heads"]]


def compiled(aggregator):
  combined = value_and_combined_grad(deep_losses, aggregator)
  arguments = (combined.init(DEEP), DEEP, draw(ROWS, WIDE))
  return jax.jit(combined.value_and_grad).lower(*arguments).compile()


def kernel_gradients(program):
  """Counts the arrays of a kernel's size that are made outside of loops by products."""
  entry = program.as_text().split("\nENTRY ")[1]
  return len(re.findall(rf"= f32\[{WIDE},{WIDE}\]\S* dot\(", entry))


def bias_of_deep(params):
  return jax.tree.map(lambda _: False, params) | {"bias": True}


@pytest.mark.parametrize(
  "aggregator",
  [
    pytest.param(aggregators.gls(num_tasks=MANY), marks=pytest.mark.thorough),
    maxgnr(num_tasks=MANY, shared=bias_of_deep),
  ],
)
def test_one_pass_goes_through_the_trunk(aggregator, usual_compilation):
  program = compiled(aggregator)
  assert kernel_gradients(program) == LAYERS
  assert_memory(program, 0.5)


@pytest.mark.thorough
def test_sketches_need_the_memory_of_less_than_a_gradient(usual_compilation):
  program = compiled(maxgnr(num_tasks=MANY, sketch=127))
  assert_memory(program, 0.5)


def test_gramians_need_no_stacked_gradients(usual_compilation):
  program = compiled(aggregators.mgda(num_tasks=MANY))
  # Pairs of gradients, if one is not finite; otherwise some layers. Stacked: 6. The
  # oldest version of jax takes 3.
  assert_memory(program, 3.5 if jax.__version_info__ < (0, 8) else 2.5)


@pytest.mark.parametrize("sketch", [None, 127])
def test_what_the_losses_leave_for_derivatives_is_not_stored_twice(
  sketch, usual_compilation
):
  params = [draw(4, 4) for _ in range(6)]
  x = draw(20_000, 4)

  def losses(params, x):
    for kernel in params:
      x = jax.nn.gelu(x @ kernel)
    return [jnp.mean(x), jnp.mean(jnp.exp(x))]

  def mean_loss(params, x):
    return sum(losses(params, x))

  tx = maxgnr(num_tasks=2, sketch=sketch) if sketch else aggregators.gls(num_tasks=2)
  combined = value_and_combined_grad(losses, tx)
  step = jax.jit(combined.value_and_grad)
  single = jax.jit(jax.value_and_grad(mean_loss)).lower(params, x).compile()
  program = step.lower(combined.init(params), params, x).compile()
  assert temporary(program) < 1.3 * temporary(single)


def assert_memory(program, gradients):
  """Bounds the temporary memory beyond that of the gradient of the mean loss."""
  size = sum(x.nbytes for x in jax.tree.leaves(DEEP))
  beyond = temporary(program) - of_mean_loss()
  assert beyond < gradients * size
  stacked = rf"f32\[{MANY * LAYERS * WIDE * WIDE}\]"
  assert not re.search(stacked, program.as_text())


@functools.cache
def of_mean_loss():
  def mean_loss(params, x):
    return sum(deep_losses(params, x))

  return temporary(jax.jit(jax.grad(mean_loss)).lower(DEEP, draw(ROWS, WIDE)).compile())


def temporary(program):
  return program.memory_analysis().temp_size_in_bytes


def test_a_method_that_reads_no_gradient_but_does_not_say_so_is_served_by_a_part():
  def measure(step, memory):
    return step.values["losses"], None

  def choose(losses, active, memory):
    return aggregators.Choice(jnp.where(active, losses, 0.0))

  method = aggregators.Method(measure, choose, values=("losses",))
  tx = aggregators.aggregator(method, num_tasks=TASKS, shared=last_bias)
  assert way(tx) == "gradients"
  assert_as_stacked(tx, ["usual", "a gradient is not finite"])
