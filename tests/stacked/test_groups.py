"""Task weights for each group of parameters."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maxgnr_jax import diagnostics, group_names, maxgnr
from tests.helpers.examples import example_params, follow, grads_sequence
from tests.helpers.trees import assert_trees_close

pytestmark = pytest.mark.usefixtures("quick_compilation")

PARAMS = example_params()
NAMES = {"head": "a", "trunk": ("b", "a")}


def of_group(tree, name):
  """The arrays of one group, under the labels `NAMES`."""
  return [
    x
    for label, part in (
      ("a", tree["head"]),
      ("b", tree["trunk"][0]),
      ("a", tree["trunk"][1]),
    )
    if label == name
    for x in jax.tree.leaves(part)
  ]


@pytest.mark.parametrize("noise_decay", [None, 0.5])
def test_each_group_gets_the_update_it_would_get_alone(noise_decay):
  sequence = grads_sequence(PARAMS, 3, 3)
  tx = maxgnr(0.5, num_tasks=3, groups=NAMES, noise_decay=noise_decay)
  history = follow(tx, PARAMS, sequence)
  for number, name in enumerate("ab"):
    alone = follow(
      maxgnr(0.5, num_tasks=3, noise_decay=noise_decay),
      of_group(PARAMS, name),
      [of_group(grads, name) for grads in sequence],
    )
    for (updates, state), (right_updates, right) in zip(history, alone, strict=True):
      assert_trees_close(of_group(updates, name), right_updates, rtol=1e-4, atol=1e-5)
      for field in ("weights", "gnr", "single_task_gnr"):
        found, expected = getattr(state, field)[number], getattr(right, field)
        np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_one_group_of_all_parameters_equals_no_groups():
  sequence = grads_sequence(PARAMS, 2, 3)
  grouped = follow(maxgnr(num_tasks=2, groups=lambda _: "all"), PARAMS, sequence)
  plain = follow(maxgnr(num_tasks=2), PARAMS, sequence)
  for (updates, state), (right_updates, right) in zip(grouped, plain, strict=True):
    assert_trees_close(updates, right_updates, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(state.weights[0], right.weights, rtol=1e-5)


@pytest.mark.parametrize(
  ("groups", "names"),
  [
    pytest.param("layer", ["head", "trunk"], marks=pytest.mark.thorough),
    ("parameter", ["head/bias", "head/gain", "trunk/0", "trunk/1"]),
    pytest.param({"head": "z", "trunk": "y"}, ["y", "z"], marks=pytest.mark.thorough),
  ],
)
def test_groups_can_be_layers_parameters_or_labels(groups, names):
  assert group_names(groups, PARAMS) == names
  tx = maxgnr(groups=groups)
  state = tx.init(PARAMS)
  for grads in grads_sequence(PARAMS, 2, 2):
    updates, state = jax.jit(tx.update)(grads, state, PARAMS)
  assert state.weights.shape == (len(names), 2)
  np.testing.assert_allclose(jnp.sum(state.weights, axis=1), 1, rtol=1e-6)
  chex.assert_trees_all_equal_structs(updates, PARAMS)
  logged = diagnostics(state, ["x", "y"], groups=names)
  assert logged[f"weights/{names[0]}/x"] == state.weights[0, 0]
  assert logged[f"noise_cosine/{names[1]}/x,y"] == state.stats.noise_cosine[1, 0, 1]
  chex.assert_shape([*logged.values()], ())


def test_parameters_outside_the_trunk_use_their_groups_weights():
  shared = {"head": False, "trunk": True}
  groups = {"head": "b", "trunk": ("a", "b")}
  tx = maxgnr(num_tasks=2, shared=shared, groups=groups)
  grads = grads_sequence(PARAMS, 2, 1)[0]
  updates, state = tx.update(grads, tx.init(PARAMS), PARAMS)
  expected = jnp.tensordot(state.weights[1], grads["head"]["bias"], 1)
  np.testing.assert_allclose(updates["head"]["bias"], expected, rtol=1e-5)


@settings(max_examples=4)
@given(active=st.lists(st.booleans(), min_size=3, max_size=3))
def test_an_inactive_task_has_no_weight_in_any_group(active):
  mask = jnp.array(active)
  tx = maxgnr(num_tasks=3, groups="layer")
  grads = grads_sequence(PARAMS, 3, 1)[0]
  _, state = tx.update(grads, tx.init(PARAMS), PARAMS, task_mask=mask)
  np.testing.assert_array_equal(state.weights > 0, [active] * 2)


@pytest.mark.parametrize(
  ("groups", "error", "message"),
  [
    ("layers", ValueError, '"layer", "parameter" or a pytree of labels'),
    ({"head": 1, "trunk": "x"}, TypeError, "must hold strings"),
    ({"head": "x"}, ValueError, "a pytree of labels like the parameters"),
  ],
)
def test_invalid_groups_raise_an_error_that_says_what_they_must_be(
  groups, error, message
):
  with pytest.raises(error, match=message):
    maxgnr(groups=groups).init(PARAMS)


def test_a_group_without_trunk_parameters_is_refused():
  tx = maxgnr(groups="layer", shared={"head": False, "trunk": True})
  with pytest.raises(ValueError, match="'head', of which `shared` selects none"):
    tx.init(PARAMS)


def test_training_with_groups_moves_every_parameter_towards_the_optima():
  params = {"a": jnp.array([3.0, 1.0]), "b": jnp.array([-2.0])}

  def loss(params, k):
    return sum(jnp.sum((x - k) ** 2) for x in params.values())

  tx = optax.chain(maxgnr(groups="parameter", num_tasks=2), optax.sgd(0.1))

  @jax.jit
  def step(params, state):
    tasks = jnp.array([1.0, 0.0])
    grads = jax.vmap(jax.grad(loss), in_axes=(None, 0))(params, tasks)
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state

  state = tx.init(params)
  for _ in range(100):
    params, state = step(params, state)
  assert all(jnp.all((x > -0.1) & (x < 1.1)) for x in params.values())
