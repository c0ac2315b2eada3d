"""PCGrad, projecting conflicting gradients."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from maxgnr_jax._linalg._active import among
from maxgnr_jax._linalg._gramian import cosines, inverse_norms, norms, only
from maxgnr_jax._linalg._matrix import matvec
from maxgnr_jax.aggregators._base import Choice, Step, key_memory, method


def pcgrad(
  *,
  num_tasks: int | None = None,
  shared: Any = None,
  seed: int | jax.Array = 0,
) -> optax.GradientTransformationExtraArgs:
  """The sum of the gradients, each rid of its conflicts with the others.

  A gradient of negative product with another is projected on the plane normal to that
  one; the others take their turns in random order, in every step anew.

  Args:
    num_tasks: As in :func:`gramian_method`.
    shared: Where inner products are measured, likewise.
    seed: Of the orders, or a PRNG key.

  Returns:
    An :class:`optax.GradientTransformationExtraArgs` with :class:`BaselineState`, whose
    memory holds the ``key`` of the next step.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from maxgnr_jax.aggregators import pcgrad_weights
    >>> gramian = jnp.array([[1.0, -1.0], [-1.0, 2.0]])
    >>> [f"{weight:.2f}" for weight in pcgrad_weights(gramian, jax.random.key(0))]
    ['2.00', '1.50']

  References:
    Yu et al., Gradient Surgery for Multi-Task Learning, NeurIPS 2020, Algorithm 1. The
    authors' code goes through the tasks in a fixed order.
  """

  def choose(step: Step, memory: dict[str, Any]) -> Choice:
    key, orders = jax.random.split(memory["key"])
    return Choice(pcgrad_weights(step.gramian(), orders, step.present), {"key": key})

  return method(
    choose, key_memory(seed), first="gramian", num_tasks=num_tasks, shared=shared
  )


def pcgrad_weights(
  gramian: jax.Array, key: jax.Array, present: jax.Array | bool = True
) -> jax.Array:
  """The weights of :func:`pcgrad` for inner products [K, K].

  Args:
    gramian: [K, K], ``⟨g_i, g_j⟩``.
    key: For the orders.
    present: [K], bool: the tasks to combine; the weights of others are 0.

  Returns:
    [K], each at least 1.
  """
  # Zero conflicts with nothing: turns of absent tasks pass.
  present, gramian = only(present, gramian)
  size = len(gramian)
  cosine = cosines(gramian)

  def project(task, key):
    """The task's projected unit gradient, as a combination of unit gradients."""

    def step(combination, other):
      product = jnp.vdot(cosine[other], combination, precision="highest")
      conflict = jnp.where(other == task, 0.0, jnp.minimum(product, 0.0))
      return combination.at[other].add(-conflict), None

    alone = (jnp.arange(size) == task).astype(gramian.dtype)
    return jax.lax.scan(step, alone, jax.random.permutation(key, size))[0]

  projected = jax.vmap(project)(jnp.arange(size), jax.random.split(key, size))
  others = projected - jnp.eye(size, dtype=gramian.dtype)
  weights = 1.0 + inverse_norms(gramian) * matvec(others.T, norms(gramian))
  return among(present, weights)
