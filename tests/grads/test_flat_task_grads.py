"""Gradients at perturbed parameters against each task's own `jax.grad` there."""

import collections
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from maxgnr_jax import (
  aggregators,
  value_and_flat_task_grads,
  value_and_task_grads,
)
from tests.helpers.examples import flat, rows
from tests.helpers.trees import assert_trees_close

pytestmark = pytest.mark.usefixtures("quick_compilation")
PARAMS = {
  "head": jnp.array([[0.5, -1.0, 2.0], [0.1, 0.4, -0.3]]),
  "trunk": (jnp.array([1.5, -0.7]), jnp.array([[2.0, 0.2], [-0.4, 1.0]])),
}
X = jnp.array([1.5, -0.5])


def outputs(params, x=X):
  bias, matrix = params["trunk"]
  return jnp.tanh(matrix @ x + bias) @ params["head"]


TASKS = {
  "far": lambda params, x=X: 10.0 * (outputs(params, x)[0] - 3.0) ** 2,
  "near": lambda params, x=X: jnp.sum(outputs(params, x) ** 2),
  "trunk only": lambda params, x=X: jnp.sum(jnp.sin(params["trunk"][1])),
}
SLOPES = [jax.jit(jax.grad(task)) for task in TASKS.values()]


def losses(params, x=X):
  return {name: task(params, x) for name, task in TASKS.items()}


def in_trunk(params):
  return {"head": False, "trunk": True}


def by_hand(radius, adaptive=False, groups=(("head", "trunk"),)):
  """Each task's gradient at its perturbed parameters minus its gradient here."""
  differences = []
  for slope in SLOPES:
    grad = slope(PARAMS)
    moved = dict(PARAMS)
    for group in groups:
      part = {name: PARAMS[name] for name in group}
      slopes = {name: grad[name] for name in group}
      size = jax.tree.map(lambda p: np.abs(p) if adaptive else np.ones(p.shape), part)
      length = np.linalg.norm(flat(jax.tree.map(np.multiply, size, slopes)))
      step = jax.tree.map(
        lambda s, g, length=length: radius * s**2 * g / max(length, 1e-30), size, slopes
      )
      moved |= jax.tree.map(lambda p, e: np.float32(p + e), part, step)
    differences.append(jax.tree.map(np.subtract, slope(moved), grad))
  return jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *differences)


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize(
  ("shared", "groups"),
  [(None, [("head", "trunk")]), (in_trunk, [("head",), ("trunk",)])],
  ids=["together", "apart"],
)
def test_each_task_is_differentiated_at_its_own_point(adaptive, shared, groups):
  radius = 0.7
  fun = value_and_flat_task_grads(losses, radius, adaptive=adaptive, shared=shared)
  values, (grads, flat_grads) = jax.jit(fun)(PARAMS)
  expected_values, expected = jax.jit(value_and_task_grads(losses))(PARAMS)
  assert_trees_close(values, expected_values, rtol=1e-6)
  assert_trees_close(grads, expected, rtol=1e-5, atol=1e-6)
  by_grad = by_hand(radius, adaptive, groups)
  assert np.max(np.abs(flat(by_grad))) > 0.05
  assert_trees_close(flat_grads, by_grad, rtol=1e-3, atol=1e-4)


def test_the_flat_part_of_a_quadratic_loss_is_the_curvature_along_the_gradient():
  rng = np.random.default_rng(0)
  matrices = rng.normal(size=(3, 4, 4))
  matrices = matrices @ np.swapaxes(matrices, -1, -2)
  point = rng.normal(size=4)

  def quadratic(params):
    return 0.5 * jnp.einsum(
      "kij,i,j->k", jnp.asarray(matrices, params.dtype), params, params
    )

  _, (grads, flat_grads) = jax.jit(value_and_flat_task_grads(quadratic, 0.3))(
    jnp.asarray(point, jnp.float32)
  )
  expected = matrices @ point
  units = expected / np.linalg.norm(expected, axis=1, keepdims=True)
  curvature = 0.3 * np.einsum("kij,kj->ki", matrices, units)
  np.testing.assert_allclose(grads, expected, rtol=1e-4, atol=1e-4)
  np.testing.assert_allclose(flat_grads, curvature, rtol=1e-3, atol=1e-3)


def test_the_flat_part_of_a_task_with_zero_gradient_is_zero():
  def fun(params):
    return jnp.sum(params**2), 0.0 * jnp.sum(params), jnp.sum(params**4)

  task_grads = jax.jit(value_and_flat_task_grads(fun, 0.5))
  _, (_, flat_grads) = task_grads(jnp.array([0.0, 2.0]))
  np.testing.assert_allclose(flat_grads[0], [0, 1], atol=1e-6)
  np.testing.assert_array_equal(flat_grads[1], 0)
  np.testing.assert_allclose(flat_grads[2], [0, 4 * 2.5**3 - 4 * 2**3], rtol=1e-5)


@pytest.mark.parametrize("tasks_at_once", [1, 2])
def test_tasks_at_once_changes_no_flat_gradients_with_aux_and_arguments(
  tasks_at_once,
):
  def fun(x, params, *, scale):
    return jax.tree.map(lambda v: scale * v, losses(params, x)), {"x": x}

  def call(**kwargs):
    return jax.jit(make(**kwargs))(X, PARAMS, scale=2.0)

  make = functools.partial(
    value_and_flat_task_grads, fun, 0.1, argnum=1, has_aux=True, shared=in_trunk
  )
  result = call(tasks_at_once=tasks_at_once)
  assert_trees_close(result, call(), rtol=1e-4, atol=1e-5)
  (values, aux), _ = result
  assert_trees_close(values, jax.tree.map(lambda v: 2 * v, losses(PARAMS)))
  np.testing.assert_array_equal(aux["x"], X)


@pytest.mark.parametrize("radius", [0, -0.1, float("nan"), "1", None])
def test_radius_must_be_positive(radius):
  with pytest.raises(ValueError, match="`radius` must be positive, got"):
    value_and_flat_task_grads(losses, radius)


@pytest.mark.parametrize("tasks_at_once", [0, 1.5])
def test_tasks_at_once_must_be_an_integer_of_at_least_one(tasks_at_once):
  with pytest.raises(
    ValueError, match="`tasks_at_once` must be an integer of at least"
  ):
    value_and_flat_task_grads(losses, tasks_at_once=tasks_at_once)


def test_flat_gradients_are_in_the_order_of_the_names():
  def ordered(params):
    return collections.OrderedDict(steep=jnp.sum(params**2), flat=jnp.sum(3.0 * params))

  flat_task_grads = value_and_flat_task_grads(ordered, 0.5)
  values, (grads, flat_grads) = flat_task_grads(jnp.array([0.0, 2.0]))
  assert list(values) == ["steep", "flat"]
  np.testing.assert_allclose(grads, [[3, 3], [0, 4]], atol=1e-6)
  np.testing.assert_allclose(flat_grads, [[0, 0], [0, 1]], atol=1e-6)


def test_losses_must_be_scalars():
  with pytest.raises(TypeError, match="scalar"):
    value_and_flat_task_grads(lambda p: jnp.ones((2, 2)) * p[0])(jnp.ones(3))


def test_losses_may_differ_in_dtype():
  def fun(w):
    return {"narrow": jnp.sum(w), "wide": jnp.sum(w.astype(jnp.float32) ** 2)}

  _, (grads, flat_grads) = value_and_flat_task_grads(fun)(jnp.ones(3, jnp.bfloat16))
  assert grads.dtype == flat_grads.dtype == jnp.bfloat16


def test_a_python_float_can_be_differentiated():
  _, (_, flat_grads) = value_and_flat_task_grads(lambda w: (2.0 * w, w**2))(3.0)
  np.testing.assert_allclose(flat_grads, [0, 0.1], rtol=1e-4)


def test_training_for_flat_regions_in_a_jitted_step_equals_the_written_out_one():
  tx = optax.chain(
    aggregators.flat_regions(aggregators.gradient_norm_scaling()), optax.sgd(0.01)
  )

  @jax.jit
  def train_step(params, opt_state, x):
    values, (grads, flat_grads) = value_and_flat_task_grads(losses, 0.1)(params, x)
    updates, opt_state = tx.update(grads, opt_state, params, flat_grads=flat_grads)
    return optax.apply_updates(params, updates), opt_state, values

  params, opt_state, values = train_step(PARAMS, tx.init(PARAMS), X)
  assert_trees_close(values, losses(PARAMS), rtol=1e-5)
  _, grads = jax.jit(value_and_task_grads(losses))(PARAMS)
  expected = flat(PARAMS)
  for part in (rows(grads), rows(by_hand(0.1))):
    gramian = jnp.asarray(part @ part.T, jnp.float32)
    expected -= (
      0.01 * np.asarray(aggregators.gradient_norm_scaling_weights(gramian)) @ part
    )
  np.testing.assert_allclose(flat(params), expected, rtol=1e-4, atol=1e-5)
  params, opt_state, later = train_step(params, opt_state, X)
  assert later["far"] < values["far"]
