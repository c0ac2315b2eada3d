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
from maxgnr_jax.aggregators._reuse import reuses_steps


@reuses_steps
def excess_mtl(
  step_size: jax.typing.ArrayLike = 0.01,
  *,
  num_tasks: int | None = None,
  shared: Shared = None,
  smoothing: jax.typing.ArrayLike | None = None,
  unshared: str = "weighted",
  rescale: str | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Gives more weight to tasks that are farther from their optimum.

  A task's excess risk is the difference between its loss and the lowest loss that it
  can reach. It is estimated by ``Σ g² / √(Σ_t g²)``, a sum over the parameters in which
  ``√(Σ_t g²)`` is AdaGrad's estimate of the curvature, in units of the task's first
  estimate. The weights grow as ``w ∝ w exp(η risk)`` and sum to 1. Noisy labels raise a
  task's loss but not its excess risk, so that they do not raise its weight.

  Args:
    step_size: η, positive. The default is that of the authors' code; their command line
      passes 1.
    num_tasks: K, at least 1. By default it is taken from the first gradients, which
      changes the shapes of the state at the first step.
    shared: Selects the trunk, where gradients are measured: a pytree of bools like the
      parameters (or a prefix of it), or a function from the parameters to one. Default:
      all parameters.
    smoothing: Decay rate, in [0, 1), of an average of the weights over the steps, as in
      :func:`~maxgnr_jax.maxgnr`. Default: no average.
    unshared: "weighted" or "own", the gradients of parameters outside of ``shared``, as
      in :func:`~maxgnr_jax.maxgnr`.
    rescale: "mean" makes the update as long as the mean of the gradients, as in
      :func:`~maxgnr_jax.maxgnr`. Default: as long as the weights make it.

  Returns:
    An :class:`optax.GradientTransformationExtraArgs` with :class:`AggregatorState`,
    whose memory holds ``squares``, the squared gradients summed over the steps, stacked
    like the gradients of the trunk; ``first_risks`` [K], each task's first estimate;
    and ``simplex_weights`` [K], the weights that the next step would start from with
    all tasks active.

  Raises:
    ValueError: for ``step_size`` <= 0 or ``num_tasks`` < 1; at the trace of ``update``,
      for gradients that are not stacked, of another number of tasks or of other
      parameters than the state.
    TypeError: for integer or complex parameters or gradients.

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
    in the authors' code, a task's first step sets the unit of its risk and does not
    change its weight.
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
  return aggregator(
    method,
    num_tasks=num_tasks,
    shared=shared,
    smoothing=smoothing,
    unshared=unshared,
    rescale=rescale,
  )


def _adagrad_risks(squares: Any, grads: Any, dtype: Any) -> tuple[Any, jax.Array]:
  """Adds ``g²`` to ``squares``; returns the sums and ``Σ g² / √squares``, [K]."""

  def added(s, g):  # the sum of squares that fit float32 might not fit
    after = s + jnp.square(g.astype(s.dtype))
    return jnp.minimum(after, jnp.finfo(s.dtype).max)

  squares = jax.tree.map(added, squares, grads)

  def row(k, s, g):
    root = jnp.sqrt(jnp.sqrt(jnp.where(s > 0, s, 1.0))).astype(dtype)
    return g.astype(dtype) / root

  def sums(reduce, pairs):
    return reduce.sum(lambda pairs: _stacked.sums_of_squares(pairs, row), pairs)

  pairs = list(zip(jax.tree.leaves(squares), jax.tree.leaves(grads), strict=True))
  return squares, _stacked.over_parameters(sums, pairs)
