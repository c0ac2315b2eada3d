"""GradVac, gradient vaccine."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from maxgnr_jax._checks import check_range
from maxgnr_jax._linalg import (
  cosines,
  inverse_norms,
  matvec,
  norms,
  quadratic_form,
  remember,
  zero_inactive,
)
from maxgnr_jax._stacked import Labels
from maxgnr_jax.aggregators._base import Choice, Memory, Method, Shared, aggregator
from maxgnr_jax.aggregators._gramian import in_each_group, measure_gramian
from maxgnr_jax.aggregators._random import key_memory, next_key

# No goal is nearer to 1: what brings gradients so near to each other has no bounds.
LARGEST_GOAL = 0.9999


def gradvac(
  beta: jax.typing.ArrayLike = 0.01,
  *,
  num_tasks: int | None = None,
  shared: Shared = None,
  groups: Labels = None,
  key: int | jax.Array = 0,
) -> optax.GradientTransformationExtraArgs:
  """The sum of the gradients, each brought as near to the others as it usually is.

  Each pair of tasks has a goal, the average of its cosines so far. A gradient that is
  farther from another than that gets as much of the other as it needs. Goals of 0 are
  :func:`pcgrad`.

  Args:
    beta: How far the goals move towards the cosines of a step, in [0, 1]. Libraries
      for PyTorch take 0.5.
    num_tasks: K, at least 1. By default it is taken from the first gradients, which
      changes the shapes of the state at the first step.
    shared: Selects the trunk, where gradients are measured: a pytree of bools like the
      parameters (or a prefix of it), or a function from the parameters to one. Default:
      all parameters.
    groups: Parameters that get task weights of their own: "layer", "parameter", a
      pytree of labels like the parameters or a prefix of it, or a function from the
      parameters to one. Default: the same weights for all.
    key: An integer or a PRNG key, from which the orders are drawn in which the others
      take their turns.

  Returns:
    An :class:`optax.GradientTransformationExtraArgs` with :class:`AggregatorState`, whose
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

  def init(params: Any, shape: tuple[int, ...], dtype: Any) -> Memory:
    goals = jnp.zeros((*shape, shape[-1]), dtype)
    return {**key_memory(key)(params, shape, dtype), "goals": goals}

  def choose(gramian: jax.Array, active: jax.Array, memory: Memory) -> Choice:
    after, orders = next_key(memory, key)

    def vaccinate(gramian, goals):
      gramian = zero_inactive(active, gramian, axes=2)
      return _vaccinate(gramian, goals, beta, orders)

    weights, goals = in_each_group(vaccinate, gramian, memory["goals"])
    after = remember(active, after, memory["key"])
    return Choice(weights, {"key": after, "goals": goals})

  return aggregator(
    Method(measure_gramian, choose, init),
    num_tasks=num_tasks,
    shared=shared,
    groups=groups,
  )


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
