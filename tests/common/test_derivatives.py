"""Derivatives of two updates in a row, as meta-learning takes them, for every method.

The references are central differences in float64. A number a scales all gradients, task
k's by a power of its own, and a hyperparameter is changed as well.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maxgnr_jax import maxgnr, steepest_descent
from tests.helpers.kinds import REPRESENTATIVES
from tests.helpers.marks import thorough_but
from tests.helpers.methods import METHODS

pytestmark = pytest.mark.usefixtures("quick_compilation")

AT, WIDTH = 1.3, 1e-5
MOVES = np.array([[0, 0], [1, 0], [0, 1], [-1, 0], [0, -1]])
VALUES = {"losses": np.array([1.0, 2.0, 0.5, 1.5]), "kpis": np.array([3, 6, 8, 4]) / 10}
MAKE = {name: method.make for name, method in METHODS.items()}
del MAKE["maxgnr-paper"]  # below
# Longer steps of unfinished searches make the updates jump where a changes by WIDTH.
MAKE["sdmgrad"] = functools.partial(MAKE["sdmgrad"], learning_rate=0.1)
MAKE["maxgnr-noise"] = functools.partial(maxgnr, noise_decay=0.9)
MAKE["maxgnr-groups"] = functools.partial(maxgnr, groups="parameter")
# With 3 tasks Krum's best two are always tied.
AT_LEAST = {"krum": 4, "trimmed_mean": 3}


def paths(num_tasks):
  """Gradients [2, K, D] and masks [2, K] of two steps, and the powers of a, [K]."""
  rng = np.random.default_rng(num_tasks)
  ordinary = rng.normal(size=(2, num_tasks, 4))
  constant = np.stack([ordinary[0], ordinary[0]])
  without = ordinary * (np.arange(num_tasks) != 1)[:, None]
  norms = np.arange(2.0, 2 + num_tasks)
  orthogonal = np.stack([np.eye(num_tasks, 4) * norms[:, None]] * 2)
  own, common = np.array([1.0, 3.0, 2.0, 0.5])[:num_tasks], np.ones(num_tasks)
  every = np.ones((2, num_tasks), bool)
  one, none = every.copy(), every.copy()
  one[1, 0] = none[1] = False
  return {
    "ordinary gradients": (ordinary, every, own),
    "constant gradients": (constant, every, own),
    "orthogonal gradients": (orthogonal, every, own),
    "a task without gradient": (without, every, common),
    "one task inactive": (ordinary, one, own),
    "all tasks inactive": (ordinary, none, own),
  }


def objective(name, hyperparameter, point, grads, masks, powers):
  """The product of the second update with a fixed vector."""
  a, number = point
  options = {} if hyperparameter is None else {hyperparameter: number}
  tx = MAKE[name](num_tasks=grads.shape[1], **options)
  values = {key: x[: grads.shape[1]] for key, x in VALUES.items()}
  update = jax.jit(tx.update)

  def tree(x):
    return {"a": x[..., :3], "b": x[..., 3:]}

  def step(state, now):
    grads, mask = now
    extra = values | {"flat_grads": tree(0.5 * grads)}
    updates, state = update(tree(grads), state, task_mask=mask, **extra)
    return state, updates

  grads = grads * (a**powers)[None, :, None]
  # In a scan the derivatives of the whole state take part, if only as zeros.
  _, updates = jax.lax.scan(step, tx.init(tree(jnp.zeros(4))), (grads, masks))
  return jnp.array([1.0, -2.0, 0.5]) @ updates["a"][1] + 3.0 * updates["b"][1, 0]


# Those that `make test` compiles.
USUAL = ("maxgnr", "mgda", "graddrop")
CASES = thorough_but(
  [(name, 3) for name in USUAL],
  [
    (name, num_tasks)
    for name in MAKE
    for num_tasks in sorted({max(number, AT_LEAST.get(name, 2)) for number in (2, 3)})
  ],
)


@pytest.mark.parametrize(("name", "num_tasks"), CASES)
def test_derivatives_are_those_of_central_differences(
  name, num_tasks, float64, standard_promotion
):
  known = METHODS.get(name, METHODS["maxgnr"]).schedulable
  hyperparameter, _, number = known or (None, 0.0, 0.0)
  points = jnp.asarray(np.array([AT, number]) + WIDTH * MOVES)
  fun = functools.partial(objective, name, hyperparameter)

  @jax.jit
  def measure(*path):
    values, slopes = jax.lax.map(lambda p: jax.value_and_grad(fun)(p, *path), points)
    return (values[1:3] - values[3:]) / (2 * WIDTH), slopes[0]

  @jax.jit
  def forward(*path):
    return jax.jvp(lambda p: fun(p, *path), (points[0],), (jnp.ones(2),))[1]

  for path, arguments in paths(num_tasks).items():
    arguments = [jnp.asarray(x) for x in arguments]
    expected, slopes = measure(*arguments)
    # Without a gradient all that is smooth is the common scale, which comes first.
    smooth = slice(1 if path == "a task without gradient" else 2)
    np.testing.assert_allclose(
      slopes[smooth], expected[smooth], rtol=1e-5, atol=1e-5, err_msg=path
    )
    if num_tasks == 2 or name in REPRESENTATIVES:  # a second program to compile
      np.testing.assert_allclose(
        forward(*arguments), np.sum(slopes), rtol=1e-8, atol=1e-8, err_msg=path
      )


def test_the_papers_solver_says_that_it_has_no_derivative():
  tx = maxgnr(num_tasks=2, solver=steepest_descent())

  def fun(grads):
    return jnp.sum(tx.update(grads, tx.init(grads[0]))[0])

  with pytest.raises(
    TypeError, match=r"`maxgnr\(solver=steepest_descent\(\)\)` cannot"
  ):
    jax.grad(fun)(jnp.eye(2))
