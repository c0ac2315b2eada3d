"""SLAW, scaled loss approximate weighting."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from maxgnr_jax._checks import check_fraction
from maxgnr_jax._linalg import remember, square_root
from maxgnr_jax.aggregators._base import (
  Choice,
  Memory,
  Method,
  Shared,
  Step,
  aggregator,
)
from maxgnr_jax.aggregators._reuse import reuses_steps

# The least deviation that a loss counts with, as in the authors' code, so that a
# constant loss does not get all the weight.
SMALLEST_DEVIATION = 1e-5


@reuses_steps
def slaw(
  beta: jax.typing.ArrayLike = 0.99,
  *,
  num_tasks: int | None = None,
  shared: Shared = None,
  smoothing: jax.typing.ArrayLike | None = None,
  unshared: str = "weighted",
  rescale: str | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Weights each task by the inverse standard deviation of its recent losses.

  The deviation s_k approximates the norm of the task's gradient without a backward
  pass. The weights are ``w_k = K s_k⁻¹ / Σ_j s_j⁻¹``, of sum K, the number of active
  tasks. Pass ``losses=`` to ``update``.

  Args:
    beta: Decay rate of the running mean and variance, in [0, 1). They cover about
      1 / (1 - beta) steps, 100 by default.
    num_tasks: K, at least 1. By default it is taken from the first gradients, which
      changes the shapes of the state at the first step.
    shared: Accepted so that methods can be exchanged by their name. The weights depend
      on no gradient, so that they are the same whatever it selects.
    smoothing: Decay rate, in [0, 1), of an average of the weights over the steps, as in
      :func:`~maxgnr_jax.maxgnr`. Default: no average.
    unshared: "weighted" or "own", the gradients of parameters outside of ``shared``, as
      in :func:`~maxgnr_jax.maxgnr`.
    rescale: "mean" makes the update as long as the mean of the gradients, as in
      :func:`~maxgnr_jax.maxgnr`. Default: as long as the weights make it.

  Returns:
    An :class:`optax.GradientTransformationExtraArgs` with :class:`AggregatorState`,
    whose memory holds the ``mean`` [K] and ``variance`` [K] of each task's losses. In
    its first step a task has no deviation yet and gets weight 1.

  Raises:
    ValueError: for ``beta`` outside [0, 1) or ``num_tasks`` < 1; at the trace of
      ``update``, for gradients that are not stacked or of another number of tasks, and
      for ``losses`` that are not one number per task.
    TypeError: for integer or complex parameters or gradients, and if ``update`` is
      called without ``losses``.

  Example:
    >>> import jax.numpy as jnp
    >>> from maxgnr_jax.aggregators import slaw
    >>> tx = slaw(num_tasks=2)
    >>> state = tx.init(jnp.zeros(2))
    >>> for losses in (jnp.array([5.0, 9.0]), jnp.array([4.0, 6.0])):
    ...   _, state = tx.update(jnp.eye(2), state, losses=losses)
    >>> [f"{weight:.2f}" for weight in state.weights]  # deviations 0.5 and 1.5
    ['1.50', '0.50']

  References:
    Crawshaw and Košecká, SLAW: Scaled Loss Approximate Weighting for Efficient
    Multi-Task Learning, 2021. As in the authors' code, the averages are arithmetic
    means until a task has been active in 1 / (1 - β) steps, and the deviation is at
    least 1e-5.
  """
  check_fraction("beta", beta)

  def init(params: Any, shape: tuple[int, ...], dtype: Any) -> Memory:
    del params
    return {"mean": jnp.zeros(shape, dtype), "variance": jnp.zeros(shape, dtype)}

  def measure(step: Step, memory: Memory) -> tuple[Any, None]:
    del memory
    return (step.values["losses"], step.task_count), None

  def choose(measurements: Any, active: jax.Array, memory: Memory) -> Choice:
    losses, task_count = measurements
    dtype = losses.dtype
    seen = task_count.astype(dtype)
    decay = jnp.minimum(jnp.asarray(beta, dtype), seen / (seen + 1.0))
    change = losses - memory["mean"]
    new = {
      "mean": memory["mean"] + (1.0 - decay) * change,
      "variance": decay * (memory["variance"] + (1.0 - decay) * change**2),
    }
    # A task has no deviation in its first step: it gets weight 1, and the tasks that
    # have one share the rest of K.
    known = active & (seen > 0)
    deviation = jnp.maximum(square_root(new["variance"]), SMALLEST_DEVIATION)
    inverse = jnp.where(known, 1.0 / deviation, 0.0)
    total = jnp.sum(inverse)
    number = jnp.sum(known.astype(dtype))
    weights = number * inverse / jnp.where(total > 0, total, 1.0)
    weights = jnp.where(known, weights, 1.0)
    return Choice(weights, remember(active, new, memory))

  method = Method(measure, choose, init, values=("losses",), measures="nothing")
  return aggregator(
    method,
    num_tasks=num_tasks,
    shared=shared,
    smoothing=smoothing,
    unshared=unshared,
    rescale=rescale,
  )
