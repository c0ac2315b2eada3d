"""`value_and_task_grads` against `jax.jacrev` and each task's `jax.grad`."""

import collections
import dataclasses
from typing import NamedTuple

import chex
import flax.core
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maxgnr_jax import task_names, value_and_task_grads
from tests.helpers.trees import assert_trees_close

pytestmark = pytest.mark.usefixtures("quick_compilation")
PARAMS = {"w": jnp.array([[0.5, -1.0], [2.0, 0.1]]), "b": jnp.array([0.3, -0.2])}
X = jnp.array([1.5, -0.5])


class Losses(NamedTuple):
  near: jax.Array
  far: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class DataclassLosses:
  near: jax.Array
  far: jax.Array


def features(params, x=X):
  return jnp.tanh(params["w"] @ x + params["b"])


def near(params, x=X):
  return jnp.sum((features(params, x) - 1.0) ** 2)


def middle(params, x=X):
  return jnp.sum(features(params, x) ** 3)


def far(params, x=X):
  return 10.0 * jnp.sum(jnp.abs(features(params, x) + 3.0))


TASKS = (near, middle, far)


def vector_of_losses(params, x=X):
  return jnp.stack([task(params, x) for task in TASKS])


def expected_grads(tasks=TASKS, params=PARAMS, x=X):
  grads = [jax.grad(task)(params, x) for task in tasks]
  return jax.tree.map(lambda *g: jnp.stack(g), *grads)


class TestWithAndWithoutJit(chex.TestCase):
  @chex.variants(with_jit=True, without_jit=True)
  def test_a_vector_of_losses_gives_the_jacobian_and_each_tasks_gradient(self):
    losses, grads = self.variant(value_and_task_grads(vector_of_losses))(PARAMS)
    np.testing.assert_allclose(losses, [task(PARAMS) for task in TASKS], rtol=1e-6)
    assert_trees_close(grads, expected_grads(), rtol=1e-5)
    assert_trees_close(grads, jax.jacrev(vector_of_losses)(PARAMS), rtol=1e-5)


PYTREES_OF_LOSSES = {
  "dict": (lambda n, f: {"near": n, "far": f}, (far, near), ["far", "near"]),
  "tuple": (lambda n, f: (n, f), (near, far), ["0", "1"]),
  "list": (lambda n, f: [n, f], (near, far), ["0", "1"]),
  "named tuple": (Losses, (far, near), ["far", "near"]),
  "dataclass": (DataclassLosses, (far, near), ["far", "near"]),
  "ordered dict": (
    lambda n, f: collections.OrderedDict(near=n, far=f),
    (far, near),
    ["far", "near"],
  ),
  "frozen dict": (
    lambda n, f: flax.core.FrozenDict(near=n, far=f),
    (far, near),
    ["far", "near"],
  ),
  "nested": (
    lambda n, f: {"b": {"near": n}, "a": [f]},
    (far, near),
    ["a/0", "b/near"],
  ),
}


@pytest.mark.parametrize(
  ("pack", "order", "names"), PYTREES_OF_LOSSES.values(), ids=PYTREES_OF_LOSSES
)
@pytest.mark.parametrize("tasks_at_once", [None, 2])
def test_a_pytree_of_losses_keeps_its_form_and_stacks_in_the_order_of_its_names(
  pack, order, names, tasks_at_once
):
  def fun(params):
    return pack(near(params), far(params))

  losses, grads = value_and_task_grads(fun, tasks_at_once=tasks_at_once)(PARAMS)
  assert_trees_close(losses, fun(PARAMS))
  assert_trees_close(grads, expected_grads(order), rtol=1e-5)
  assert task_names(losses) == names


def test_a_single_scalar_loss_is_one_task():
  loss, grads = value_and_task_grads(near)(PARAMS)
  np.testing.assert_allclose(loss, near(PARAMS))
  assert_trees_close(grads, expected_grads([near]), rtol=1e-5)


@pytest.mark.parametrize("tasks_at_once", [1, 2, 3, 7])
@pytest.mark.parametrize("has_aux", [False, True])
def test_tasks_at_once_changes_no_gradients(tasks_at_once, has_aux):
  def fun(params):
    losses = {"a": near(params), "b": middle(params), "c": far(params)}
    return (losses, features(params)) if has_aux else losses

  expected = value_and_task_grads(fun, has_aux=has_aux)(PARAMS)
  result = value_and_task_grads(fun, has_aux=has_aux, tasks_at_once=tasks_at_once)(
    PARAMS
  )
  assert_trees_close(result, expected, rtol=1e-5)


@pytest.mark.parametrize("num_tasks", [16, 17])
def test_sixteen_or_more_tasks_give_the_right_gradients(num_tasks):
  def fun(w):
    return jnp.stack([jnp.sum(w**2) / (k + 1) for k in range(num_tasks)])

  w = jnp.arange(3.0)
  _, grads = value_and_task_grads(fun)(w)
  expected = np.arange(3.0) * 2 / np.arange(1, num_tasks + 1)[:, None]
  np.testing.assert_allclose(grads, expected, rtol=1e-6)


def test_auxiliary_data_is_returned_beside_the_losses():
  def fun(params):
    return vector_of_losses(params), {"features": features(params), "step": 3}

  (losses, aux), grads = value_and_task_grads(fun, has_aux=True)(PARAMS)
  np.testing.assert_allclose(losses, vector_of_losses(PARAMS))
  np.testing.assert_allclose(aux["features"], features(PARAMS))
  assert aux["step"] == 3
  assert_trees_close(grads, expected_grads(), rtol=1e-5)


@pytest.mark.parametrize("argnums", [1, -1, (1,), (0, 1), (1, 0), (-1, 0)])
def test_argnums_select_arguments_as_in_jacrev(argnums):
  def fun(x, params):
    return vector_of_losses(params, x)

  _, grads = value_and_task_grads(fun, argnums)(X, PARAMS)
  assert_trees_close(grads, jax.jacrev(fun, argnums)(X, PARAMS), rtol=1e-5)


def test_other_arguments_pass_through_untouched():
  def fun(params, mode, *, scale, nothing=None):
    assert mode == "sum"
    assert nothing is None
    return scale * vector_of_losses(params)

  _, grads = value_and_task_grads(fun)(PARAMS, "sum", scale=2.0)
  doubled = jax.tree.map(lambda g: 2.0 * g, expected_grads())
  assert_trees_close(grads, doubled, rtol=1e-5)


def test_the_function_keeps_its_name_and_documentation():
  def documented(params):
    """What it is."""
    return vector_of_losses(params)

  wrapped = value_and_task_grads(documented)
  assert wrapped.__name__ == "documented"
  assert wrapped.__doc__ == "What it is."


@pytest.mark.parametrize("tasks_at_once", [None, 1, 2])
def test_there_is_one_forward_pass_and_one_backward_pass_per_task(tasks_at_once):
  forward, backward = [], []

  @jax.custom_vjp
  def trunk(w):
    return jnp.sin(w)

  def trunk_forward(w):
    jax.debug.callback(lambda: forward.append(1))
    return jnp.sin(w), w

  def trunk_backward(w, cotangent):
    jax.debug.callback(lambda _: backward.append(1), cotangent)
    return (cotangent * jnp.cos(w),)

  trunk.defvjp(trunk_forward, trunk_backward)

  def fun(w):
    hidden = trunk(w)
    return jnp.stack([jnp.sum(hidden**power) for power in (1, 2, 3)])

  _, grads = value_and_task_grads(fun, tasks_at_once=tasks_at_once)(jnp.arange(4.0))
  jax.block_until_ready(grads)
  jax.effects_barrier()
  assert len(forward) == 1
  assert len(backward) == 3


def test_one_task_at_a_time_holds_no_activation_gradients_of_all_tasks():
  batch = 1000
  weights = jnp.ones((2, 2))

  def fun(weights):
    hidden = jnp.tanh(jnp.ones((batch, 2)) @ weights)
    return jnp.stack([jnp.mean(hidden**power) for power in (1, 2, 3)])

  def shapes(tasks_at_once):
    grads = value_and_task_grads(fun, tasks_at_once=tasks_at_once)
    return str(jax.make_jaxpr(grads)(weights))

  assert f"[3,{batch},2]" in shapes(3)
  assert f"[3,{batch},2]" not in shapes(1)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_losses_and_parameters_may_differ_in_dtype(dtype):
  def fun(w):
    wide = w.astype(jnp.float32)
    return {"wide": jnp.sum(wide**2), "narrow": jnp.sum(w)}

  losses, grads = value_and_task_grads(fun)(jnp.ones(3, dtype))
  assert (losses["wide"].dtype, losses["narrow"].dtype) == (jnp.float32, dtype)
  assert grads.dtype == dtype
  np.testing.assert_allclose(np.float32(grads), [[1, 1, 1], [2, 2, 2]])


def test_a_python_float_can_be_differentiated():
  _, grads = value_and_task_grads(lambda w: (2.0 * w, w**2))(3.0)
  np.testing.assert_allclose(grads, [2, 6])


def test_argnums_may_be_a_numpy_integer():
  losses, grads = value_and_task_grads(lambda a, b: {"a": a, "ab": a * b}, np.int64(1))(
    jnp.float32(2), jnp.float32(3)
  )
  assert losses["ab"] == 6
  np.testing.assert_array_equal(grads, [0, 2])


@pytest.mark.parametrize("num_tasks", [2, 5])
def test_a_loss_that_is_not_finite_leaves_the_other_gradients_alone(num_tasks):
  def losses(w):
    finite = [jnp.sum(w**2) * (k + 1) for k in range(num_tasks - 1)]
    return (*finite, jnp.sum(w) / jnp.sum(0 * w))

  w = jnp.array([1.0, 2.0, 3.0])
  _, grads = value_and_task_grads(losses)(w)
  expected = 2.0 * np.outer(np.arange(1, num_tasks), w)
  np.testing.assert_allclose(grads[:-1], expected, rtol=1e-6)
  assert not jnp.any(jnp.isfinite(grads[-1]))
