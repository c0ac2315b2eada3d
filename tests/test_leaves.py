"""A leaf that is no array, as in an unfiltered model, is named in an error."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maxgnr_jax import (
  aggregators,
  value_and_combined_grad,
  value_and_flat_task_grads,
  value_and_task_grads,
)
from tests.helpers.examples import default_maxgnr

# Some name a dtype, which is no reason to take them for numbers.
NO_ARRAYS = [jax.nn.relu, len, "tanh", "float32", jnp.float32, np.dtype("float32")]


@pytest.mark.parametrize("leaf", NO_ARRAYS)
def test_a_leaf_that_is_no_array_is_named_with_advice_on_how_to_keep_it_out(leaf):
  tx, model = default_maxgnr(3), {"kernel": jnp.ones(3), "activation": leaf}
  grads = {"kernel": jnp.ones((3, 3)), "activation": jnp.ones(3)}
  state = tx.init({"kernel": jnp.ones(3), "activation": jnp.ones(())})
  message = (
    r"must be real floating-point arrays, got the leaf \['activation'\] of type "
    rf"{type(leaf).__name__}\. .*optax\.masked.*equinox\.filter\("
  )
  for call in (
    lambda: tx.init(model),
    lambda: tx.update(grads | {"activation": leaf}, state),
    lambda: tx.update(grads, state, model),
    lambda: value_and_combined_grad(abs, tx, refresh_every=2).init(model),
  ):
    with pytest.raises(TypeError, match=message):
      call()


@pytest.mark.parametrize("leaf", NO_ARRAYS)
def test_no_loss_is_differentiated_with_respect_to_what_is_no_array(leaf):
  def losses(model):
    return jnp.sum(model["kernel"]), jnp.sum(model["kernel"] ** 2)

  model = {"kernel": jnp.ones(3), "activation": leaf}
  message = rf"got type {type(leaf).__name__} in .*\['activation'\].*partition\("
  for function in (value_and_task_grads, value_and_flat_task_grads):
    with pytest.raises(TypeError, match=message):
      function(losses)(model)


@pytest.mark.parametrize("leaf", NO_ARRAYS)
@pytest.mark.parametrize("has_aux", [False, True])
def test_a_loss_that_is_no_array_is_named(leaf, has_aux):
  def fun(w):
    losses = {"fit": w[0], "name": leaf}
    return (losses, w) if has_aux else losses

  message = rf"losses, got type {type(leaf).__name__} in the leaf \['name'\]"
  with pytest.raises(TypeError, match=message):
    value_and_task_grads(fun, has_aux=has_aux)(jnp.ones(3))


@pytest.mark.parametrize(
  ("name", "tx"),
  [
    ("flat_grads", aggregators.flat_regions(aggregators.mgda(num_tasks=2))),
    ("independent_grads", aggregators.modo(num_tasks=2)),
  ],
)
def test_a_leaf_of_further_gradients_that_is_no_array_is_named(name, tx):
  state, grads = tx.init({"w": jnp.ones(3)}), {"w": jnp.ones((2, 3))}
  for first, second, what in (
    (grads, {"w": len}, f"`{name}`"),
    ({"w": len}, grads, "Gradients"),
  ):
    with pytest.raises(TypeError, match=rf"{what} must be .*\['w'\] of type builtin"):
      tx.update(first, state, **{name: second})
