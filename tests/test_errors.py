"""Errors are raised while tracing and say what is wrong and what to do."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from maxgnr_jax import (
  Solver,
  maxgnr,
  projected_gradient,
  steepest_descent,
  value_and_task_grads,
)
from tests.helpers.examples import default_maxgnr, example_params, random_grads

PARAMS = example_params()


def trace_update(grads, tx=None, state=None, params=PARAMS):
  """Traces a step without running it, so that errors depend on shapes only."""
  tx = default_maxgnr() if tx is None else tx
  state = tx.init(PARAMS) if state is None else state
  jax.jit(tx.update).lower(grads, state, params)


def with_leaf(tree, leaf):
  """`tree` with another array at ['trunk'][1]."""
  return tree | {"trunk": (tree["trunk"][0], leaf)}


def test_leaves_with_different_numbers_of_tasks_raise_an_error_with_their_shapes():
  grads = with_leaf(random_grads(PARAMS, 3), jnp.ones((4, 2)))
  message = (
    r"share one leading axis, the K tasks, got the leaf \['head'\]\['bias'\] of shape "
    r"\(3, 5\) and the leaf \['trunk'\]\[1\] of shape \(4, 2\)"
  )
  with pytest.raises(ValueError, match=message):
    trace_update(grads)


def test_the_error_for_a_leaf_that_is_not_stacked_names_another_that_is():
  grads = with_leaf(random_grads(PARAMS, 3), jnp.ones((2,)))
  message = (
    r"the leaf \['trunk'\]\[1\] of shape \(2,\) .* Others are stacked, such as the "
    r"leaf \['head'\]\['bias'\] of shape \(3, 5\); this one is not\. Stack the grad"
  )
  with pytest.raises(ValueError, match=message):
    trace_update(grads)


@pytest.mark.parametrize("shape", [(2,), (3, 1), (3, 2, 1)])
def test_a_leaf_of_another_shape_raises_an_error_with_the_required_shape(shape):
  grads = with_leaf(random_grads(PARAMS, 3), jnp.ones(shape))
  message = (
    r"must be of shape \[K, \*param.shape\], got the leaf \['trunk'\]\[1\] of shape "
    rf"\({', '.join(map(str, shape))},?\) for param.shape \(2,\) of the state"
  )
  with pytest.raises(ValueError, match=message):
    trace_update(grads)


def test_a_leaf_of_another_shape_outside_the_trunk_raises_an_error():
  tx = maxgnr(shared={"head": True, "trunk": False})
  grads = with_leaf(random_grads(PARAMS, 3), jnp.ones((3, 1)))
  message = (
    r"the leaf \['trunk'\]\[1\] .*\(3, 1\) for param.shape \(2,\) of the parameters"
  )
  with pytest.raises(ValueError, match=message):
    trace_update(grads, tx)


@pytest.mark.parametrize("num_tasks", [None, 3])
def test_unstacked_gradients_raise_an_error_that_explains_how_to_stack(num_tasks):
  with pytest.raises(ValueError, match="are not stacked") as error:
    trace_update(PARAMS, default_maxgnr(num_tasks))
  message = str(error.value)
  assert "the leaf ['head']['bias'] of shape (5,)" in message
  for remedy in ("value_and_task_grads(", "jax.vmap(jax.grad(", "jax.jacrev("):
    assert remedy in message


def test_an_unstacked_array_without_a_tree_is_called_the_root():
  tx = default_maxgnr()
  with pytest.raises(ValueError, match=r"not stacked.*at the root of shape \(7,\)"):
    jax.eval_shape(tx.update, jnp.ones(7), tx.init(jnp.ones(7)))


def test_gradients_of_zero_tasks_are_refused():
  with pytest.raises(ValueError, match=r"at least one task, got .* of shape \(0, 5\)"):
    trace_update(random_grads(PARAMS, 0))


def test_a_number_of_tasks_unlike_num_tasks_raises_an_error_with_both():
  with pytest.raises(
    ValueError, match="for 2 tasks, but the state was initialised for 3"
  ):
    trace_update(random_grads(PARAMS, 2), default_maxgnr(3))


def test_a_changed_number_of_tasks_raises_an_error_with_both():
  tx = default_maxgnr()
  grads = random_grads(PARAMS, 3)
  _, state = jax.eval_shape(tx.update, grads, tx.init(PARAMS), PARAMS)
  with pytest.raises(ValueError, match=r"for 2 tasks.*for 3\. .* a new state"):
    trace_update(random_grads(PARAMS, 2), state=state)


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.complex64, jnp.bool_])
def test_gradients_that_are_not_real_floats_raise_an_error_with_their_dtype(dtype):
  grads = with_leaf(random_grads(PARAMS, 3), jnp.ones((3, 2), dtype))
  message = (
    r"Gradients must be real floating-point arrays, got the leaf \['trunk'\]\[1\] of "
    rf"dtype {jnp.dtype(dtype)}. .*`optax.masked`"
  )
  with pytest.raises(TypeError, match=message):
    trace_update(grads)


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.complex64, jnp.bool_])
def test_parameters_that_are_not_real_floats_raise_an_error_with_their_dtype(dtype):
  params = with_leaf(PARAMS, jnp.ones(2, dtype))
  message = rf"Parameters must .*\['trunk'\]\[1\] of dtype {jnp.dtype(dtype)}"
  with pytest.raises(TypeError, match=message):
    jax.jit(default_maxgnr().init).lower(params)


@pytest.mark.parametrize(
  "other",
  [
    {"trunk": PARAMS["trunk"]},
    PARAMS | {"more": jnp.ones(2)},
    PARAMS | {"head": {"bias": jnp.ones(5), "gain": None}},
    [jnp.ones(3)],
    jnp.ones(3),
  ],
)
@pytest.mark.parametrize("num_tasks", [None, 3])
def test_a_state_for_another_tree_is_refused(other, num_tasks):
  tx = default_maxgnr(num_tasks)
  with pytest.raises(ValueError, match=r"gradients must be a pytree like .*`init`"):
    trace_update(random_grads(PARAMS, 3), tx, tx.init(other))


def test_a_state_for_other_shapes_is_refused():
  other = with_leaf(PARAMS, jnp.ones(6))
  tx = default_maxgnr(3)
  with pytest.raises(ValueError, match=r"\(3, 2\) for param.shape \(6,\) of the state"):
    trace_update(random_grads(PARAMS, 3), tx, tx.init(other))


def test_params_with_another_tree_than_the_gradients_are_refused():
  with pytest.raises(ValueError, match="pytree like that of the parameters"):
    trace_update(random_grads(PARAMS, 3), params=PARAMS["head"])


@pytest.mark.parametrize("empty", [{}, (), None, {"a": None}])
def test_an_empty_pytree_is_refused(empty):
  tx = default_maxgnr()
  with pytest.raises(ValueError, match="at least one array, got an empty pytree"):
    trace_update(empty, tx, tx.init(empty), empty)


@pytest.mark.parametrize("gamma", [-0.1, 1, 1.0, 1.5, float("nan"), np.float32(2)])
def test_gamma_outside_its_range_is_refused(gamma):
  with pytest.raises(ValueError, match=r"`gamma`.*must lie in \[0, 1\), got"):
    maxgnr(gamma)


@pytest.mark.parametrize("gamma", [0, 0.0, 0.999, np.float32(0.5), jnp.float32(0.5)])
def test_gamma_inside_its_range_is_accepted(gamma):
  trace_update(random_grads(PARAMS, 2), maxgnr(gamma))


def test_a_schedule_as_gamma_raises_an_error_that_recommends_inject_hyperparams():
  with pytest.raises(TypeError, match=r"optax.inject_hyperparams\(maxgnr\)\(gamma="):
    maxgnr(optax.constant_schedule(0.9))


@pytest.mark.parametrize("gamma", ["0.9", None, [0.9]])
def test_gamma_must_be_a_number(gamma):
  with pytest.raises((TypeError, ValueError), match="`gamma`"):
    maxgnr(gamma)


NOT_A_COUNT = [0, -3, 2.0, 1.5, "2", float("nan")]


@pytest.mark.parametrize("value", NOT_A_COUNT)
@pytest.mark.parametrize(
  ("name", "make"),
  [
    ("num_tasks", lambda n: maxgnr(num_tasks=n)),
    ("num_steps", lambda n: projected_gradient(num_steps=n)),
    ("num_steps", lambda n: steepest_descent(num_steps=n)),
    ("tasks_at_once", lambda n: value_and_task_grads(abs, tasks_at_once=n)),
  ],
)
def test_counts_must_be_integers_of_at_least_one(name, make, value):
  with pytest.raises(ValueError, match=rf"`{name}` must be an integer of at least 1"):
    make(value)


@pytest.mark.parametrize("value", [1, np.int64(3), jnp.int32(2)])
def test_integers_of_any_kind_are_accepted_as_num_tasks(value):
  assert maxgnr(num_tasks=value).init(PARAMS).weights.shape == (int(value),)


@pytest.mark.parametrize("rate", [0, 0.0, -1e-3, float("nan")])
def test_learning_rate_must_be_positive(rate):
  with pytest.raises(ValueError, match="`learning_rate` must be positive, got"):
    steepest_descent(learning_rate=rate)


def test_shared_must_select_at_least_one_parameter():
  with pytest.raises(ValueError, match="`shared` must select at least one parameter"):
    maxgnr(shared=lambda params: jax.tree.map(lambda _: False, params)).init(PARAMS)


@pytest.mark.parametrize("keep", [1, "trunk", jnp.bool_(True), np.ones(1, bool)])
def test_shared_must_hold_bools(keep):
  with pytest.raises(TypeError, match="`shared` must hold bools, got"):
    maxgnr(shared={"head": False, "trunk": keep}).init(PARAMS)


@pytest.mark.parametrize(
  "shared", [{"trunk": True}, {"head": True, "trunk": (True,)}, [True, False]]
)
def test_shared_must_have_the_structure_of_the_parameters(shared):
  with pytest.raises(ValueError, match="`shared` must be a pytree of bools like"):
    maxgnr(shared=shared).init(PARAMS)


NOT_K_LOSSES = [
  lambda w: jnp.ones((2, 2)) * w[0],
  lambda w: {"a": w, "b": w[0]},
  lambda w: (),
  lambda w: None,
  lambda w: w[:0],
]


@pytest.mark.parametrize("fun", NOT_K_LOSSES)
def test_the_differentiated_function_must_return_k_losses(fun):
  with pytest.raises(TypeError, match=r"must return K losses.*got"):
    jax.eval_shape(value_and_task_grads(fun), jnp.ones(3))


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.complex64])
def test_losses_must_be_real_floats(dtype):
  def fun(w):
    return {"a": w[0], "b": w[1].astype(dtype)}

  with pytest.raises(
    TypeError, match=f"real floating-point losses, got dtype {dtype.dtype}"
  ):
    jax.eval_shape(value_and_task_grads(fun), jnp.ones(3))


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.complex64])
def test_differentiated_arguments_must_be_real_floats(dtype):
  params = {"w": jnp.ones(3), "step": jnp.ones((), dtype)}
  message = f"Only real floating-point arrays.*got dtype {dtype.dtype}"
  with pytest.raises(TypeError, match=message):
    jax.eval_shape(value_and_task_grads(lambda p: p["w"]), params)


@pytest.mark.parametrize("argnums", [1, -2, (0, 1)])
def test_argnums_must_name_positional_arguments(argnums):
  with pytest.raises(TypeError, match="`argnums` must name positional arguments"):
    value_and_task_grads(lambda w: w, argnums)(jnp.ones(3))


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.complex64, bool])
def test_momentum_dtype_must_be_real_floating_point(dtype):
  with pytest.raises(TypeError, match="`momentum_dtype` must be a real floating-point"):
    maxgnr(momentum_dtype=dtype)


@pytest.mark.parametrize("solver", [projected_gradient, lambda stats: stats, None])
def test_solver_must_be_a_solver(solver):
  with pytest.raises(TypeError, match="`solver` must be a `Solver`"):
    maxgnr(solver=solver)


def test_a_solver_must_return_one_weight_per_task():
  tx = maxgnr(solver=Solver(lambda stats: jnp.ones(3)))
  params = jnp.ones(4)
  with pytest.raises(ValueError, match=r"one weight per task, shape \(2,\), got shape"):
    jax.eval_shape(tx.update, jnp.ones((2, 4)), tx.init(params))


def test_the_state_of_a_whole_chain_is_refused():
  params = jnp.ones(4)
  state = optax.chain(maxgnr(), optax.sgd(0.1)).init(params)
  with pytest.raises(TypeError, match=r"must be the MaxGNRState.*got tuple"):
    maxgnr().update(jnp.ones((2, 4)), state)


def test_gradients_in_a_list_or_dict_of_tasks_are_refused():
  params = {"w": jnp.ones(3)}
  tx = maxgnr()
  for grads in ([params, params], {"depth": params, "edges": params}):
    with pytest.raises(ValueError, match=r"jnp.stack\(g\), \*grads"):
      tx.update(grads, tx.init(params), params)
