"""ExcessMTL, robust multi-task learning with excess risks."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from maxgnr_jax import _stacked
from maxgnr_jax._checks import check_positive
from maxgnr_jax._linalg import active_softmax, remember
from maxgnr_jax.aggregators._base import (
  Choice,
  Memory,
  Method,
  Shared,
  Step,
  aggregator,
)
from maxgnr_jax.aggregators._remembered import shares


def excess_mtl(
  step_size: jax.typing.ArrayLike = 0.01,
  *,
  num_tasks: int | None = None,
  shared: Shared = None,
) -> optax.GradientTransformationExtraArgs:
  """More weight for the tasks that are farther from their optimum.

  How far a loss is above what the task can reach, its excess risk, is estimated by
  ``Σ g² / √(Σ_t g²)`` over the parameters, AdaGrad's curvature, in units of its first
  value. Weights grow as ``w ∝ w exp(η risk)`` and sum to 1: a noisy label, which raises
  the loss but not the gradient, gets nothing.

  Args:
    step_size: η, positive. The authors' code has 0.01, their command line 1.
    num_tasks: K, at least 1. By default it is taken from the first gradients, which
      changes the shapes of the state at the first step.
    shared: Selects the trunk, where gradients are measured: a pytree of bools like the
      parameters (or a prefix of it), or a function from the parameters to one. Default:
      all parameters.

  Returns:
    An :class:`optax.GradientTransformationExtraArgs` with :class:`AggregatorState`, whose
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

  def init(params: Any, shape: tuple[int, ...], dtype: Any) -> Memory:
    (tasks,) = shape
    return {
      "squares": _stacked.zeros(params, tasks, _stacked.compute_dtype(params)),
      "first_risks": jnp.zeros(shape, dtype),
      "simplex_weights": jnp.full(shape, 1.0 / max(tasks, 1), dtype),
    }

  def measure(step: Step, memory: Memory) -> tuple[Any, jax.Array]:
    squares = memory["squares"]
    _stacked.count_tasks(step.grads, _stacked.one_task(squares), "the state")
    squares, risks = _adagrad_risks(squares, step.grads, step.dtype)
    return (squares, risks, step.task_count), step.finite()

  def choose(measurements: Any, active: jax.Array, memory: Memory) -> Choice:
    squares, risks, task_count = measurements
    dtype = risks.dtype
    begins = task_count == 0
    first = jnp.where(begins, risks, memory["first_risks"])
    relative = jnp.where(first > 0, risks / jnp.where(first > 0, first, 1.0), 0.0)
    relative = jnp.where(jnp.isfinite(relative) & ~begins, relative, 0.0)
    w, total = shares(active, memory["simplex_weights"])
    logits = jnp.log(jnp.maximum(w, jnp.finfo(dtype).tiny))
    logits += jnp.asarray(step_size, dtype) * relative
    weights = active_softmax(active, logits)
    new = {
      "squares": squares,
      "first_risks": first,
      "simplex_weights": total * weights,
    }
    return Choice(weights, remember(active, new, memory))

  method = Method(measure, choose, init)
  return aggregator(method, num_tasks=num_tasks, shared=shared)


def _adagrad_risks(squares: Any, grads: Any, dtype: Any) -> tuple[Any, jax.Array]:
  """Adds ``g²`` to ``squares``; returns them and ``Σ g² / √squares``, [K]."""
  squares = jax.tree.map(lambda s, g: s + jnp.square(g.astype(s.dtype)), squares, grads)

  def row(k, s, g):
    root = jnp.sqrt(jnp.where(s > 0, jnp.sqrt(s), 1.0)).astype(dtype)
    return g.astype(dtype) / root

  def sums(reduce, pairs):
    return reduce.sum(lambda pairs: _stacked.sums_of_squares(pairs, row), pairs)

  pairs = list(zip(jax.tree.leaves(squares), jax.tree.leaves(grads), strict=True))
  return squares, _stacked.over_parameters(sums, pairs)
