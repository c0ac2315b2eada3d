"""`checkify.float_checks` finds nothing in the steps of any method.

It reports every NaN that is made and every division by 0, also where a `where` throws
the result away.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import checkify

from maxgnr_jax import maxgnr
from tests.helpers.kinds import of_each_kind
from tests.helpers.methods import METHODS, NUM_TASKS

pytestmark = pytest.mark.usefixtures("quick_compilation")

MAKE = {name: method.make for name, method in METHODS.items()}
MAKE["maxgnr-noise"] = functools.partial(maxgnr, noise_decay=0.9)
# Checkify refuses loops in `vmap`, which groups make of other solvers.
MAKE["maxgnr-groups"] = functools.partial(maxgnr, groups="parameter")
GRADS = np.random.default_rng(0).normal(size=(3, NUM_TASKS, 4)).astype(np.float32)
EVERY = np.ones(NUM_TASKS, bool)
FIRST, NONE = np.arange(NUM_TASKS) == 0, ~EVERY
# Scales of the tasks' gradients, and the masks of three steps.
CASES = {
  "ordinary": ([1, 1, 1], [EVERY] * 3),
  "a task without gradient": ([1, 0, 1], [EVERY] * 3),
  "no gradient": ([0, 0, 0], [EVERY] * 3),
  "some masked first": ([1, 1, 1], [~FIRST, EVERY, FIRST]),
  "some masked later": ([1, 1, 1], [EVERY, FIRST, ~FIRST]),
  "all masked first": ([1, 1, 1], [NONE, EVERY, EVERY]),
  "all masked later": ([1, 1, 1], [EVERY, NONE, EVERY]),
}


@pytest.mark.parametrize("name", of_each_kind(MAKE))
def test_nothing_is_reported(name):
  tx = MAKE[name](num_tasks=NUM_TASKS)
  values = {"losses": jnp.array([1.0, 2.0, 0.5]), "kpis": jnp.array([0.3, 0.6, 0.8])}

  def tree(x):
    return {"a": x[..., :3], "b": x[..., 3:]}

  @jax.jit
  @functools.partial(checkify.checkify, errors=checkify.float_checks)
  def step(grads, state, mask):
    extra = values | {"flat_grads": tree(0.5 * grads)}
    return tx.update(tree(grads), state, task_mask=mask, **extra)[1]

  for case, (scales, masks) in CASES.items():
    state = tx.init(tree(jnp.zeros(4)))
    for number, (grads, mask) in enumerate(zip(GRADS, masks, strict=True)):
      scaled = grads * np.float32(scales)[:, None]
      error, state = step(scaled, state, mask)
      assert error.get() is None, f"{case}, step {number}"
