"""ExcessMTL, robust multi-task learning with excess risks."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from maxgnr_jax import _stacked
from maxgnr_jax._checks import check_positive
from maxgnr_jax._stacked._sharding import over_parameters
from maxgnr_jax._stacked._sums import sums_of_squares
from maxgnr_jax.aggregators._base import Choice, Step, method
from maxgnr_jax.aggregators._remembered import shares, softmax_among


def excess_mtl(
  step_size: jax.typing.ArrayLike = 0.01,
  *,
  num_tasks: int | None = None,
  shared: Any = None,
) -> optax.GradientTransformationExtraArgs:
  """More weight for the tasks that are farther from their optimum.

  How far a loss is above what the task can reach, its excess risk, is estimated by
  ``Σ g² / √(Σ_t g²)`` over the parameters, AdaGrad's curvature, in units of its first
  value. Weights grow as ``w ∝ w exp(η risk)`` and sum to 1: a noisy label, which raises
  the loss but not the gradient, gets nothing.

  Args:
    step_size: η, positive. The authors' code has 0.01, their command line 1.
    num_tasks: As in :func:`gramian_method`.
    shared: Where risks are estimated, likewise.

  Returns:
    An :class:`optax.GradientTransformationExtraArgs` with :class:`BaselineState`, whose
    memory holds the ``squares`` summed over the steps, stacked like the gradients, the
    ``first_risks`` [K] and the ``simplex_weights`` [K], what the weights are when all
    tasks are present.

  Raises:
    ValueError: for ``step_size`` <= 0.

  Example:
    >>> import jax.numpy as jnp
    >>> from maxgnr_jax.aggregators import excess_mtl
    >>> tx = excess_mtl(step_size=1.0, num_tasks=2)
    >>> state = tx.init(jnp.zeros(1))
    >>> for grads in (jnp.array([[1.0], [1.0]]), jnp.array([[1.0], [0.1]])):
    ...   _, state = tx.update(grads, state)
    >>> [f"{weight:.2f}" for weight in state.weights]
    ['0.67', '0.33']

  References:
    He et al., Robust Multi-Task Learning with Excess Risks, ICML 2024, Eq. 6 to 9. As
    in the authors' code the first step sets the unit and leaves the weights equal.
  """
  check_positive("step_size", step_size)

  def memory(params, tasks, dtype):
    squares = _stacked.zeros(params, tasks, _stacked.compute_dtype(params))
    return {
      "squares": squares,
      "first_risks": jnp.zeros((tasks,), dtype),
      "simplex_weights": jnp.full((tasks,), 1.0 / max(tasks, 1), dtype),
    }

  def choose(step: Step, memory: dict[str, Any]) -> Choice:
    squares, risks = adagrad_risks(memory["squares"], step.grads, step.dtype)
    begins = step.task_count == 0
    first = jnp.where(begins, risks, memory["first_risks"])
    relative = jnp.where(first > 0, risks / jnp.where(first > 0, first, 1.0), 0.0)
    relative = jnp.where(jnp.isfinite(relative) & ~begins, relative, 0.0)
    w, together = shares(step, memory["simplex_weights"])
    logits = jnp.log(jnp.maximum(w, jnp.finfo(step.dtype).tiny))
    logits += jnp.asarray(step_size, step.dtype) * relative
    weights = softmax_among(step.present, logits)
    new = {
      "squares": squares,
      "first_risks": first,
      "simplex_weights": together * weights,
    }
    return Choice(weights, step.remember(new, memory))

  return method(choose, memory, first="norms", num_tasks=num_tasks, shared=shared)


def adagrad_risks(squares: Any, grads: Any, dtype: Any) -> tuple[Any, jax.Array]:
  """Adds ``g²`` to ``squares``; returns them and ``Σ g² / √squares`` [K]."""
  squares = jax.tree.map(lambda s, g: s + jnp.square(g.astype(s.dtype)), squares, grads)

  def row(k, s, g):
    root = jnp.sqrt(jnp.where(s > 0, jnp.sqrt(s), 1.0)).astype(dtype)
    return g.astype(dtype) / root

  def sums(reduce, pairs):
    return reduce.sum(lambda pairs: sums_of_squares(pairs, row), pairs)

  pairs = list(zip(jax.tree.leaves(squares), jax.tree.leaves(grads), strict=True))
  return squares, over_parameters(sums, pairs)
