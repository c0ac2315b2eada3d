"""GradVac, gradient vaccine."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from maxgnr_jax._checks import check_range
from maxgnr_jax._linalg._gramian import cosines, inverse_norms, norms
from maxgnr_jax._linalg._matrix import matvec, quadratic_form
from maxgnr_jax.aggregators._base import Choice, Step, key_memory, method

# No goal is nearer to 1: what brings gradients so near to each other has no bounds.
LARGEST_GOAL = 0.9999


def gradvac(
  beta: jax.typing.ArrayLike = 0.01,
  *,
  num_tasks: int | None = None,
  shared: Any = None,
  seed: int | jax.Array = 0,
) -> optax.GradientTransformationExtraArgs:
  """The sum of the gradients, each brought as near to the others as it usually is.

  Each pair of tasks has a goal, the average of its cosines so far. A gradient that is
  farther from another than that gets as much of the other as it needs. Goals of 0 are
  :func:`pcgrad`.

  Args:
    beta: How far the goals move towards the cosines of a step, in [0, 1]. Libraries
      for PyTorch take 0.5.
    num_tasks: As in :func:`gramian_method`.
    shared: Where inner products are measured, likewise.
    seed: Of the orders in which the others take their turns, or a PRNG key.

  Returns:
    An :class:`optax.GradientTransformationExtraArgs` with :class:`BaselineState`, whose
    memory holds the ``key`` of the next step and the ``goals`` [K, K].

  Raises:
    ValueError: for ``beta`` outside [0, 1].

  Example:
    >>> import jax.numpy as jnp
    >>> from maxgnr_jax.aggregators import gradvac
    >>> tx = gradvac()
    >>> grads = jnp.array([[1.0, 0.0], [-1.0, 1.0]])
    >>> updates, _ = tx.update(grads, tx.init(jnp.zeros(2)))
    >>> [f"{update:.2f}" for update in updates]
    ['0.50', '1.50']

  References:
    Wang et al., Gradient Vaccine: Investigating and Improving Multi-task Optimization
    in Massively Multilingual Models, ICLR 2021, Eq. 2 and 3, for the whole model as one
    group. Goals move after they were compared with, as in LibMTL and TorchJD.
  """
  check_range("beta", beta, "in [0, 1]", lambda x: 0 <= x <= 1)

  def memory(params, tasks, dtype):
    key = key_memory(seed)(params, tasks, dtype)
    return {**key, "goals": jnp.zeros((tasks, tasks), dtype)}

  def choose(step: Step, memory: dict[str, Any]) -> Choice:
    key, orders = jax.random.split(memory["key"])
    weights, goals = _vaccinate(step.gramian(), memory["goals"], beta, orders)
    return Choice(weights, {"key": key, "goals": goals})

  return method(choose, memory, first="gramian", num_tasks=num_tasks, shared=shared)


def _vaccinate(gramian, goals, beta, key):
  """Weights [K] and the next goals."""
  size, dtype = len(gramian), gramian.dtype
  cosine, inverse = cosines(gramian), inverse_norms(gramian)
  beta = jnp.asarray(beta, dtype)

  def approach(task, key, goals):
    """The task's unit gradient afterwards, as a combination of unit gradients."""

    def step(carry, other):
      combination, goals = carry
      length = jnp.sqrt(jnp.maximum(quadratic_form(cosine, combination), 0.0))
      # Where both have a gradient: zeros of absent tasks leave their goals alone.
      there = (other != task) & (length > 0) & (inverse[other] > 0)
      divisor = jnp.where(length > 0, length, 1.0)
      near = jnp.clip(matvec(cosine[other], combination) / divisor, -1.0, 1.0)
      goal = jnp.minimum(goals[other], LARGEST_GOAL)
      sine, goal_sine = jnp.sqrt(1.0 - near**2), jnp.sqrt(1.0 - goal**2)
      needed = length * (goal * sine / goal_sine - near)
      needed = jnp.where(there & (near < goal), needed, 0.0)
      moved = goals[other] + beta * (near - goals[other])
      goals = goals.at[other].set(jnp.where(there, moved, goals[other]))
      return (combination.at[other].add(needed), goals), None

    alone = (jnp.arange(size) == task).astype(dtype)
    order = jax.random.permutation(key, size)
    return jax.lax.scan(step, (alone, goals), order)[0]

  keys = jax.random.split(key, size)
  near, goals = jax.vmap(approach)(jnp.arange(size), keys, goals)
  others = near - jnp.eye(size, dtype=dtype)
  return 1.0 + inverse * matvec(others.T, norms(gramian)), goals
