"""Random inputs never give NaN or infinite updates.

Pytrees, shapes, dtypes, scales, masks and non-finite numbers drawn at random, over the
transformation and over methods of every kind.
"""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maxgnr_jax import aggregators, maxgnr
from tests.helpers.examples import rows
from tests.helpers.marks import thorough_but
from tests.helpers.traces import jit_with_max_traces

pytestmark = pytest.mark.usefixtures("quick_compilation")

METHODS = {
  "maxgnr": maxgnr,
  "maxgnr averaged": functools.partial(maxgnr, noise_decay=0.9),
  "maxgnr by parameter": functools.partial(maxgnr, groups="parameter"),
  "maxgnr stochastic": functools.partial(
    maxgnr, momentum_dtype=jnp.bfloat16, momentum_rounding="stochastic"
  ),
  "aligned_mtl": aggregators.aligned_mtl,
  "cagrad": aggregators.cagrad,
  "equal_weights": aggregators.equal_weights,
  "graddrop": aggregators.graddrop,
  "imtl_g": aggregators.imtl_g,
  "mgda": aggregators.mgda,
  "moco": aggregators.moco,
  "pcgrad": aggregators.pcgrad,
  "upgrad": aggregators.upgrad,
}
OF_SUM_ONE = ("maxgnr", "maxgnr averaged", "maxgnr by parameter", "maxgnr stochastic")
OF_SUM_ONE += ("equal_weights", "mgda")
# Few structures, because each is compiled; only their numbers are drawn at random.
TREES = (
  {"w": ((3, 2), "float32"), "b": ((), "float32")},
  [((5,), "bfloat16"), ((2, 1, 2), "bfloat16"), ((0,), "bfloat16")],
  ((1,), "float32"),
  {"half": ((4,), "float16"), "wide": [((3,), "float32"), None]},
)
STEPS = 3


@functools.cache
def compiled(method, number, num_tasks):
  def is_leaf(x):
    return isinstance(x, tuple) and isinstance(x[0], tuple)

  params = jax.tree.map(lambda x: jnp.zeros(*x), TREES[number], is_leaf=is_leaf)
  tx = METHODS[method](num_tasks=num_tasks)

  def step(grads, state, mask):
    return tx.update(grads, state, params, task_mask=mask)

  return params, tx, jit_with_max_traces(step)


@st.composite
def steps(draw):
  """A seed, the tasks' scales, and every step's masks and non-finite numbers."""
  num_tasks = draw(st.sampled_from([1, 3]))
  per_task = {"min_size": num_tasks, "max_size": num_tasks}
  return (
    num_tasks,
    draw(st.integers(0, 2**32 - 1)),
    draw(st.lists(st.sampled_from([-6, -3, 0, 3, None]), **per_task)),
    [draw(st.lists(st.booleans(), **per_task)) for _ in range(STEPS)],
    [
      draw(st.lists(st.sampled_from([None, None, np.nan, np.inf, -np.inf]), **per_task))
      for _ in range(STEPS)
    ],
  )


@pytest.mark.parametrize(
  ("method", "number"),
  thorough_but(
    [("maxgnr", 0), ("maxgnr stochastic", 0), ("maxgnr", 1), ("graddrop", 0)],
    [
      *((method, 0) for method in METHODS),
      *itertools.product(("maxgnr", "equal_weights"), range(1, len(TREES))),
    ],
  ),
)
@settings(max_examples=15)
@given(drawn=steps())
def test_random_steps_give_finite_updates_and_consistent_states(method, number, drawn):
  num_tasks, seed, exponents, masks, bad_numbers = drawn
  params, tx, step = compiled(method, number, num_tasks)
  rng = np.random.default_rng(seed)
  scales = [0.0 if e is None else 10.0**e for e in exponents]
  state = tx.init(params)
  missed, empty = np.zeros((2, num_tasks), int)
  for mask, bad in zip(masks, bad_numbers, strict=True):
    draw = functools.partial(draw_grads, rng, scales=scales, bad=bad)
    grads = jax.tree.map(draw, params)
    updates, state = step(grads, state, jnp.array(mask))
    held = [p is not None for p in bad]
    missed += np.logical_and(mask, held)
    active = np.logical_and(mask, np.logical_not(held))
    if method != "equal_weights":  # which does not look at gradients
      zero = np.logical_and(active, [not np.any(row) for row in rows(grads)])
      empty += zero
      active = np.logical_and(active, np.logical_not(zero))
    chex.assert_trees_all_equal_structs(updates, params)
    for leaf in jax.tree.leaves((updates, state)):
      if jnp.issubdtype(leaf.dtype, jnp.floating):
        assert not np.any(np.isnan(leaf.astype(jnp.float32)))
    chex.assert_tree_all_finite(updates)
    if state.weights is not None:
      weights = np.atleast_2d(state.weights)
      assert np.all(weights[:, ~active] == 0)
    if method in OF_SUM_ONE:
      assert np.all(weights >= 0)
      np.testing.assert_allclose(weights.sum(axis=1), float(any(active)), rtol=1e-5)
    if not any(active):
      assert all(not np.any(leaf) for leaf in jax.tree.leaves(updates))
  np.testing.assert_array_equal(optax.tree.get(state, "notfinite_count"), missed)
  np.testing.assert_array_equal(optax.tree.get(state, "zero_count"), empty)


def draw_grads(rng, p, scales, bad):
  """Half of the draws are whole numbers, so that gradients cancel, agree and vanish."""
  shape = (len(scales), *p.shape)
  drawn = rng.normal(size=shape) if rng.random() < 0.5 else rng.integers(-1, 2, shape)
  drawn = drawn * np.reshape(scales, (-1, *(1,) * p.ndim))
  flat = drawn.reshape(len(scales), -1)
  if flat.size:
    for task, value in enumerate(bad):
      if value is not None:
        flat[task, rng.integers(flat.shape[1])] = value
  return jnp.asarray(flat.reshape(shape), p.dtype)
