"""MoDo and SDMGrad: weights from the gradients of two batches.

In ``⟨g_i, g'_j⟩`` of independent batches the noise averages out; in ``⟨g_i, g_j⟩`` of
one batch it does not, and the tasks with more noise seem to have larger gradients.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from maxgnr_jax import _stacked
from maxgnr_jax._checks import (
  check_fraction,
  check_not_negative,
  check_positive,
  check_whole,
)
from maxgnr_jax._linalg._active import equal_shares
from maxgnr_jax._linalg._matrix import matvec
from maxgnr_jax._linalg._simplex import project_on_simplex
from maxgnr_jax._stacked import _trunk, check_same_shapes
from maxgnr_jax.aggregators._base import Choice, Step, method
from maxgnr_jax.aggregators._remembered import shares


def modo(
  gamma: jax.typing.ArrayLike = 0.1,
  rho: jax.typing.ArrayLike = 0.1,
  *,
  num_tasks: int | None = None,
  shared: Any = None,
) -> optax.GradientTransformationExtraArgs:
  """MGDA whose weights take one step at a time, on independent batches.

  ``w ← Π(w - γ (G w + ρ w))`` on the simplex, where ``G_ij = ⟨g_i, g'_j⟩``. Pass
  ``independent_grads=`` to ``update``, stacked gradients g' of a second batch; the
  update is then of the mean of both. Without them ``g' = g``, and the weights are
  biased by the noise.

  Args:
    gamma: γ, step size of the weights, at least 0, in units of the inverse squared
      gradient. The authors try 0.01 to 1.
    rho: ρ, at least 0, which keeps the weights apart.
    num_tasks: As in :func:`gramian_method`.
    shared: Where inner products are measured, likewise.

  Returns:
    An :class:`optax.GradientTransformationExtraArgs` with :class:`BaselineState`, whose
    memory holds the ``simplex_weights`` [K], what the weights are when all tasks are
    present.

  Raises:
    ValueError: for numbers out of range, or ``independent_grads`` of other shapes.

  Example:
    >>> import jax.numpy as jnp
    >>> from maxgnr_jax.aggregators import modo
    >>> tx = modo(gamma=0.5, rho=0.0)
    >>> grads = jnp.array([[1.0, 0.0], [0.0, 0.5]])
    >>> _, state = tx.update(grads, tx.init(jnp.zeros(2)), independent_grads=grads)
    >>> [f"{weight:.2f}" for weight in state.weights]
    ['0.41', '0.59']

  References:
    Chen et al., Three-Way Trade-Off in Multi-Objective Learning: Optimization,
    Generalization and Conflict-Avoidance, NeurIPS 2023, Eq. 2.9. The authors' code sums
    both batches' gradients; LibMTL takes a third batch for the update.
  """
  check_not_negative("gamma", gamma)
  check_not_negative("rho", rho)

  def choose(step: Step, memory: dict[str, Any]) -> Choice:
    w, together = shares(step, memory["simplex_weights"])
    slope = matvec(_products(step), w) + jnp.asarray(rho, step.dtype) * w
    w = _project(step, w - jnp.asarray(gamma, step.dtype) * slope)
    return Choice(w, step.remember({"simplex_weights": together * w}, memory))

  return _two_batches(choose, num_tasks, shared)


def sdmgrad(
  direction: jax.typing.ArrayLike = 0.3,
  *,
  learning_rate: jax.typing.ArrayLike = 10.0,
  momentum: jax.typing.ArrayLike = 0.5,
  num_steps: int = 20,
  num_tasks: int | None = None,
  shared: Any = None,
) -> optax.GradientTransformationExtraArgs:
  """MGDA drawn to the mean gradient, on independent batches.

  The weights are ``(w + λ/K) / (1 + λ)``, where w minimises ``½ ‖g_w + λ g_0‖²`` on the
  simplex, with ``g_w = Σ w_k g_k`` and ``g_0`` the mean gradient: by steps of projected
  gradient descent with momentum that go on where those of the last update ended. Pass
  ``independent_grads=`` to ``update``, stacked gradients of a second batch; the update
  is then of the mean of both. Without them the weights are biased by the noise.

  Args:
    direction: λ, at least 0; the larger, the nearer to equal weights.
    learning_rate: Of those steps, positive; gradients are in units of their root mean
      square over the tasks.
    momentum: Of those steps, in [0, 1).
    num_steps: How many, at least 1.
    num_tasks: As in :func:`gramian_method`.
    shared: Where inner products are measured, likewise.

  Returns:
    An :class:`optax.GradientTransformationExtraArgs` with :class:`BaselineState`, whose
    memory holds the ``simplex_weights`` [K], what w is when all tasks are present.

  Raises:
    ValueError: for numbers out of range, or ``independent_grads`` of other shapes.

  Example:
    >>> import jax.numpy as jnp
    >>> from maxgnr_jax.aggregators import sdmgrad
    >>> tx = sdmgrad(direction=1.0, learning_rate=0.2)
    >>> grads = jnp.array([[1.0, 0.0], [0.0, 0.5]])
    >>> _, state = tx.update(grads, tx.init(jnp.zeros(2)), independent_grads=grads)
    >>> [f"{weight:.2f}" for weight in state.weights]
    ['0.25', '0.75']

  References:
    Xiao et al., Direction-oriented Multi-objective Learning: Simple and Provable
    Stochastic Algorithms, NeurIPS 2023, Algorithm 1, with the settings of the authors'
    code. They take the update's gradients from a third batch.
  """
  check_not_negative("direction", direction)
  check_positive("learning_rate", learning_rate)
  check_fraction("momentum", momentum)
  check_whole("num_steps", num_steps, 1)

  def choose(step: Step, memory: dict[str, Any]) -> Choice:
    products = _products(step)
    lengths = jnp.sqrt(jnp.maximum(jnp.diagonal(products), 0.0))
    scale = jnp.sum(lengths) / step.num_present
    scale = jnp.where(scale > 0, scale, 1.0)
    products = products / scale / scale
    pull = jnp.asarray(direction, step.dtype)
    mean = equal_shares(step.present, step.dtype)

    def descend(_, carry):
      w, velocity = carry
      slope = matvec(products, w + pull * mean)
      velocity = jnp.asarray(momentum, step.dtype) * velocity + slope
      moved = w - jnp.asarray(learning_rate, step.dtype) * velocity
      return _project(step, moved), velocity

    w, together = shares(step, memory["simplex_weights"])
    start = (w, jnp.zeros_like(w))
    w, _ = jax.lax.fori_loop(0, num_steps, descend, start)
    weights = (w + pull * mean) / (1.0 + pull)
    return Choice(weights, step.remember({"simplex_weights": together * w}, memory))

  return _two_batches(choose, num_tasks, shared)


def _project(step: Step, vector: jax.Array) -> jax.Array:
  """The nearest weights of the tasks that are present."""
  return project_on_simplex(jnp.where(step.present, vector, -jnp.inf))


def _products(step: Step) -> jax.Array:
  """[K, K], ``⟨g_i, g'_j⟩``; of the same batch if there is one only."""
  batches = step.extra_args.get("batches")
  if batches is None:
    return step.gramian()
  first, second = (_trunk.restrict(batch, step.grads) for batch in batches)
  return step.among(_stacked.gram(first, step.dtype, second))


def _two_batches(
  choose: Callable[[Step, dict[str, Any]], Choice],
  num_tasks: int | None,
  shared: Any,
) -> optax.GradientTransformationExtraArgs:
  """A method that takes ``independent_grads``, and updates with the mean of both."""

  def memory(params, tasks, dtype):
    del params
    return {"simplex_weights": jnp.full((tasks,), 1.0 / max(tasks, 1), dtype)}

  def inner(first):
    return method(choose, memory, first=first, num_tasks=num_tasks, shared=shared)

  one_batch = inner("gramian")
  # The mean's inner products would be of no use.
  two_batches = inner("norms")

  def update(grads, state, params=None, *, independent_grads=None, **extra_args):
    if independent_grads is None:
      return one_batch.update(grads, state, params, **extra_args)
    check_same_shapes(grads, independent_grads, "independent_grads")
    mean = jax.tree.map(lambda a, b: a + 0.5 * (b - a), grads, independent_grads)
    batches = (grads, independent_grads)
    return two_batches.update(mean, state, params, **extra_args, batches=batches)

  return optax.GradientTransformationExtraArgs(one_batch.init, update)
