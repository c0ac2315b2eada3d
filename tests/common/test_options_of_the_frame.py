"""Every method with averaged weights, heads of their own, and rescaled updates."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maxgnr_jax import aggregators
from tests.helpers.examples import example_params, random_grads
from tests.helpers.kinds import of_each_kind
from tests.helpers.methods import METHODS
from tests.helpers.trees import assert_trees_close

pytestmark = pytest.mark.usefixtures("quick_compilation")

NUM_TASKS, NUM_STEPS = 3, 4
PARAMS = example_params()
SHARED = {"head": False, "trunk": True}
UNWEIGHTED = ("graddrop", "gradient_dropout", "trimmed_mean", "moco", "db_mtl")
FACTORIES = {
  "constant_weights": functools.partial(aggregators.constant_weights, [1, 0.5, 2]),
  "ngdiff": functools.partial(aggregators.ngdiff, [1, 1, -1]),
}
NAMES = [name for name in METHODS if name not in ("flat_regions", "maxgnr-sketch")]
# Steps in which the last task is absent, and the first is not finite.
ABSENT, SPOILED = 1, 2


def make(name, **options):
  factory = FACTORIES.get(name, METHODS[name].make)
  return factory(num_tasks=NUM_TASKS, shared=SHARED, **options)


def steps(tx):
  """Gradients, updates, states, and which tasks are active, of some steps."""
  state, update = tx.init(PARAMS), jax.jit(tx.update)
  for step in range(NUM_STEPS):
    grads = random_grads(PARAMS, NUM_TASKS, step, [1.0, 10.0, 0.1])
    mask = jnp.array([True, True, step != ABSENT])
    values = {
      "losses": jnp.array([1.0, 3.0, 0.5]) / (step + 1),
      "kpis": jnp.array([0.2, 0.3, 0.4]),
      "flat_grads": jax.tree.map(lambda g: 0.5 * g, grads),
    }
    if step == SPOILED:
      kernel, *rest = grads["trunk"]
      grads["trunk"] = (kernel.at[0, 1, 1].set(jnp.nan), *rest)
    updates, state = update(grads, state, PARAMS, task_mask=mask, **values)
    yield grads, updates, state, np.array([step != SPOILED, True, step != ABSENT])


@pytest.mark.parametrize("name", of_each_kind(NAMES))
def test_heads_of_their_own_get_the_sum_of_their_gradients(name):
  """The rest of the update is as long as the mean, by averaged weights."""
  weighted = name not in UNWEIGHTED
  options = {"smoothing": 0.9, "rescale": "mean"} if weighted else {}
  for grads, updates, state, mask in steps(make(name, unshared="own", **options)):
    expected = jax.tree.map(lambda g, m=mask: g[m].sum(axis=0), grads["head"])
    assert_trees_close(updates["head"], expected, rtol=1e-5, atol=1e-5)
    if not weighted:
      continue
    weights = np.asarray(state.weights)
    assert (weights[~mask] == 0).all()
    assert (weights[mask] != 0).all()
    rows = [g.reshape(NUM_TASKS, -1) for g in jax.tree.leaves(grads["trunk"])]
    rows = np.concatenate(rows, axis=1)[mask]
    trunk = np.concatenate([u.ravel() for u in jax.tree.leaves(updates["trunk"])])
    np.testing.assert_allclose(weights[mask] @ rows, trunk, rtol=1e-3, atol=1e-4)
    mean = np.linalg.norm(rows.mean(axis=0))
    np.testing.assert_allclose(np.linalg.norm(trunk), mean, rtol=1e-3)
