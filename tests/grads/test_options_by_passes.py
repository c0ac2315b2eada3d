"""Averaged weights, heads of their own and rescaled updates by few backward passes."""

import jax
import jax.numpy as jnp
import optax
import pytest

from maxgnr_jax import aggregators, maxgnr, value_and_combined_grad
from tests.grads.test_by_passes import (
  PARAMS,
  SCENES,
  TASKS,
  USUAL,
  X,
  assert_as_stacked,
  last_bias,
  losses,
)
from tests.helpers.marks import thorough_but
from tests.helpers.trees import assert_trees_close

pytestmark = pytest.mark.usefixtures("quick_compilation")
TRUNK = {"first": True, "last": True, "heads": False}
OWN = {"num_tasks": TASKS, "unshared": "own", "smoothing": 0.8}
KINDS = {
  "losses": aggregators.uncertainty(optax.sgd(0.1), shared=TRUNK, **OWN),
  "gramian": aggregators.mgda(shared=TRUNK, rescale="mean", **OWN),
  "gradients of a part": maxgnr(shared=last_bias, rescale="mean", **OWN),
  "sketches": maxgnr(shared=TRUNK, sketch=31, rescale="mean", **OWN),
}


@pytest.mark.parametrize("kind", thorough_but(["gramian"], KINDS))
def test_the_update_is_that_of_stacked_gradients(kind):
  scenes = ["usual", "a loss is not finite", "usual", "a gradient is not finite"]
  assert_as_stacked(KINDS[kind], [*scenes, "nothing is finite", "usual"])


def test_heads_of_their_own_in_microbatches_with_a_mask():
  mask = jnp.array([True, True, False, True])
  assert_as_stacked(KINDS["sketches"], ["usual", "usual"], mask=mask, microbatches=2)


def test_heads_of_their_own_learn_while_the_trunk_has_no_gradient():
  """The loss of a task is 0 times that of the trunk, and depends on its head."""

  def fun(params, x):
    values = losses(params, x, USUAL)
    last = values["task 0"]
    values["task 0"] = 0.0 * last + jnp.sum(jnp.square(params["heads"][0] - 1.0))
    return values

  combined = value_and_combined_grad(fun, KINDS["gradients of a part"])
  _, grad, state = jax.jit(combined.value_and_grad)(combined.init(PARAMS), PARAMS, X)
  assert state.aggregator.zero_count.tolist() == [1, 0, 0, 0]
  expected = 2.0 * (PARAMS["heads"][0] - 1.0)
  assert_trees_close(grad["heads"][0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("injected", thorough_but([True], [False, True]))
def test_between_refreshes_heads_keep_their_own_gradients(injected, standard_promotion):
  make = aggregators.mgda
  if injected:
    make = optax.inject_hyperparams(make, static_args=("shared", "num_tasks"))
  combined = value_and_combined_grad(
    losses, make(shared=TRUNK, rescale="mean", **OWN), refresh_every=2
  )
  scene = SCENES["usual"]

  @jax.jit
  def step(state, mask):
    return combined.value_and_grad(state, PARAMS, X, scene, task_mask=mask)

  everyone, mask = jnp.ones(TASKS, bool), jnp.array([True, True, False, True])
  _, first, state = step(combined.init(PARAMS), everyone)
  _, grad, after = step(state, everyone)
  assert_trees_close(grad, first, rtol=1e-4, atol=1e-5)
  assert_trees_close(after.aggregator, state.aggregator)
  _, grad, _ = step(state, mask)
  assert not grad["heads"][2].any()
  for k in (0, 1, 3):
    assert_trees_close(grad["heads"][k], first["heads"][k], rtol=1e-4, atol=1e-5)
