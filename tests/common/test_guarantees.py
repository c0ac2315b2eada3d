"""What `benchmarks/methods.py` and the tables in `docs/methods.md` say of every update.

The gradients and losses of several steps are drawn at random, in several runs at once.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.methods import AGGREGATORS
from tests.helpers.methods import METHODS

pytestmark = pytest.mark.usefixtures("quick_compilation")
NUM_RUNS, NUM_STEPS, SIZE = 20, 4, 12
SCALES = (10.0, 1.0, 0.1, 3.0)


def that(*guarantees):
  """Names of the methods that guarantee one of these."""
  return [n for n, row in AGGREGATORS.items() if set(guarantees) & set(row.guarantees)]


def follow(name, num_tasks, scales=None):
  """Returns gradients [run, step, K, D], and updates [run, step, D]."""
  draw = np.random.default_rng(0)
  grads = draw.normal(size=(NUM_RUNS, NUM_STEPS, num_tasks, SIZE)).astype(np.float32)
  losses = np.exp(0.3 * draw.normal(size=grads.shape[:3])).astype(np.float32)
  factors = jnp.array((1.0,) * num_tasks if scales is None else scales)
  tx = METHODS[name].make(num_tasks=num_tasks)
  params = jnp.zeros(SIZE)

  @jax.jit
  @jax.vmap
  def updates(grads, losses):
    def step(state, drawn):
      g, values = drawn[0] * factors[:, None], drawn[1] * factors
      update, state = tx.update(g, state, params, losses=values)
      return state, update

    return jax.lax.scan(step, tx.init(params), (grads, losses))[1]

  return grads.astype(float), np.asarray(updates(grads, losses), float)


def cosines(grads, updates):
  """Returns the cosine between each task's gradient and the update."""
  products = np.einsum("rtkd,rtd->rtk", grads, updates)
  lengths = np.linalg.norm(grads, axis=-1) * np.linalg.norm(updates, axis=-1)[..., None]
  return products / lengths


def turn(name):
  """Returns the cosine between updates for losses of other and of equal scales."""
  (_, first), (_, second) = (
    follow(name, len(SCALES), scales) for scales in (None, SCALES)
  )
  return cosines(first[:, :, None], second)[..., 0]


@pytest.mark.parametrize("name", that("no conflict"))
def test_no_conflict(name):
  assert np.min(cosines(*follow(name, 4))) > -1e-3


@pytest.mark.parametrize("name", that("no conflict for K = 2"))
def test_no_conflict_of_two_tasks(name):
  assert np.min(cosines(*follow(name, 2))) > -1e-3


@pytest.mark.parametrize("name", that("mean loss falls"))
def test_the_mean_loss_falls(name):
  grads, updates = follow(name, 4)
  assert np.all(np.einsum("rtd,rtd->rt", np.mean(grads, axis=2), updates) > 0)


@pytest.mark.parametrize("name", that("equal projections", "equal cosines"))
def test_the_update_has_the_same_projection_on_every_gradient(name):
  found = cosines(*follow(name, 4))
  np.testing.assert_allclose(found, found[..., :1].repeat(4, -1), rtol=1e-3)


@pytest.mark.parametrize("name", that("scale", "scale, by default"))
def test_the_scale_of_a_loss_does_not_turn_the_update(name):
  np.testing.assert_allclose(turn(name), 1.0, atol=1e-4)


@pytest.mark.parametrize("name", that("scale, up to the sign"))
def test_the_scale_of_a_loss_turns_the_update_at_most_to_its_opposite(name):
  np.testing.assert_allclose(np.abs(turn(name)), 1.0, atol=1e-4)


@pytest.mark.parametrize("name", that("scale, after its first step"))
def test_the_scale_of_a_loss_turns_the_first_update_only(name):
  found = turn(name)
  assert np.min(found[:, 0]) < 0.9
  np.testing.assert_allclose(found[:, 1:], 1.0, atol=1e-4)
