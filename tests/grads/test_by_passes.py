"""`value_and_combined_grad` by the cheapest way, against stacked gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from benchmarks.methods import AGGREGATORS
from maxgnr_jax import (
  aggregators,
  maxgnr,
  value_and_combined_grad,
  value_and_task_grads,
)
from tests.helpers import methods
from tests.helpers.trees import assert_trees_close

pytestmark = pytest.mark.usefixtures("quick_compilation")
TASKS, ROWS, WIDTH = 4, 8, 5
STATELESS = ("graddrop", "gradient_dropout", "trimmed_mean", "moco", "db_mtl")


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
MASK = jnp.array([True, True, True, False])


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


def shared(part):
  """Selects all, the trunk, the last layer or its bias."""
  names = {
    "trunk": ("first", "last"),
    "layer": ("last",),
    "bias": ("last", "bias"),
    "all": (),
  }[part]

  def select(params):
    def keep(path, _):
      keys = [entry.key for entry in path if hasattr(entry, "key")]
      return not names or all(name in keys for name in names[:2]) or (
        part == "trunk" and keys[0] in names
      )

    return jax.tree_util.tree_map_with_path(keep, params)

  return select


def extra_arguments(name):
  return {"kpis": jnp.linspace(0.2, 0.8, TASKS)} if name == "dtp" else {}


def assert_as_stacked(aggregator, scenes, extra_args=None, rtol=2e-4, **options):
  """Compares gradients and states of some steps with those of stacked gradients."""
  extra_args = extra_args or {}
  combined = value_and_combined_grad(losses, aggregator, **options)
  stacked = value_and_task_grads(losses)

  @jax.jit
  def ours(state, scene):
    return combined.value_and_grad(state, PARAMS, X, scene, **extra_args)

  @jax.jit
  def expected(state, scene):
    values, grads = stacked(PARAMS, X, scene)
    known = {"losses": values} | extra_args
    return aggregator.update(grads, state, PARAMS, **known)

  state, after = combined.init(PARAMS), aggregator.init(PARAMS)
  for scene in scenes:
    _, grad, state = ours(state, SCENES[scene])
    expected_grad, after = expected(after, SCENES[scene])
    assert all(jnp.all(jnp.isfinite(g)) for g in jax.tree.leaves(grad))
    largest = max(float(jnp.max(jnp.abs(g))) for g in jax.tree.leaves(expected_grad))
    assert_trees_close(grad, expected_grad, rtol=rtol, atol=rtol * (largest or 1.0))
    assert_trees_close(state.aggregator, after, rtol=10 * rtol, atol=1e-5)


NAMES = [name for name in methods.METHODS if name != "flat_regions"]


@pytest.mark.parametrize("name", NAMES)
def test_every_method_makes_the_update_of_stacked_gradients(name):
  row = methods.METHODS[name]
  scenes = ["usual", "a loss is not finite", "usual", "a gradient is not finite"]
  scenes += ["a task without labels", "nothing is finite", "usual"]
  assert_as_stacked(row.make(num_tasks=TASKS), scenes, extra_arguments(name))
