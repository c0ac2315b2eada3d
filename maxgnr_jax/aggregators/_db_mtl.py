"""DB-MTL, dual-balancing of loss scales and gradient magnitudes."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from maxgnr_jax import _stacked
from maxgnr_jax._checks import check_fraction, check_not_negative
from maxgnr_jax._linalg import zero_inactive
from maxgnr_jax.aggregators._base import (
  Choice,
  Memory,
  Method,
  Shared,
  Step,
  aggregator,
)
from maxgnr_jax.aggregators._reuse import reuses_steps

# Added to a loss before its logarithm is taken, as in the authors' code.
SMALLEST_LOSS = 1e-8


@reuses_steps
def db_mtl(
  beta: jax.typing.ArrayLike = 0.9,
  beta_decay: jax.typing.ArrayLike = 0.0,
  *,
  num_tasks: int | None = None,
  shared: Shared = None,
  unshared: str = "weighted",
) -> optax.GradientTransformationExtraArgs:
  """Sums running averages of the gradients of log-losses, scaled to equal length.

  Each gradient is divided by its task's loss, which gives the gradient of the loss's
  logarithm and removes the loss's scale. A running average of it is kept per task, and
  every average is scaled to the length of the longest. Pass ``losses=`` to ``update``.

  Args:
    beta: Decay rate of the running average, in [0, 1). In the t-th step in which a task
      is active, the rate of its average is ``beta / t^beta_decay``.
    beta_decay: How fast the decay rate falls, at least 0. The default keeps it
      constant; the paper chooses between 0 and 0.5.
    num_tasks: K, at least 1. By default it is taken from the first gradients, which
      changes the shapes of the state at the first step.
    shared: Selects the trunk, where gradients are measured: a pytree of bools like the
      parameters (or a prefix of it), or a function from the parameters to one. The
      other parameters get the sum of the gradients of the log-losses, as in the paper.
      Default: all parameters.
    unshared: "weighted" or "own", the gradients of parameters outside of ``shared``, as
      in :func:`~maxgnr_jax.maxgnr`.

  Returns:
    An :class:`optax.GradientTransformationExtraArgs` with :class:`AggregatorState`,
    whose memory holds the ``average`` of each task's gradients, stacked like the
    gradients of the trunk. The update is not a weighted sum of this step's gradients,
    so ``weights`` is None. A task with a negative loss keeps its average in that step.

  Raises:
    ValueError: for ``beta`` outside [0, 1), ``beta_decay`` < 0 or ``num_tasks`` < 1; at
      the trace of ``update``, for gradients that are not stacked, of another number of
      tasks or of other parameters than the state, and for ``losses`` that are not one
      number per task.
    TypeError: for integer or complex parameters or gradients, and if ``update`` is
      called without ``losses``.

  Example:
    >>> import jax.numpy as jnp
    >>> from maxgnr_jax.aggregators import db_mtl
    >>> tx = db_mtl(beta=0.0)
    >>> grads = jnp.array([[3.0, 0.0], [0.0, 4.0]])
    >>> losses = jnp.array([1.0, 2.0])
    >>> updates, _ = tx.update(grads, tx.init(jnp.zeros(2)), losses=losses)
    >>> [f"{update:.2f}" for update in updates]  # log-losses: lengths 3 and 2
    ['3.00', '3.00']

  References:
    Lin et al., Dual-Balancing for Multi-Task Learning, 2023, Algorithm 1. The averages
    start at 0 without bias correction: first updates are shorter, but the tasks are
    balanced from the first step.
  """
  check_fraction("beta", beta)
  check_not_negative("beta_decay", beta_decay)

  def init(params: Any, shape: tuple[int, ...], dtype: Any) -> Memory:
    del dtype
    return {"average": _stacked.zeros(params, shape[-1], None)}

  def measure(step: Step, memory: Memory) -> tuple[Any, jax.Array]:
    average = memory["average"]
    _stacked.count_tasks(step.grads, _stacked.one_task(average), "the state")
    losses = step.values["losses"]
    known = losses >= 0
    inverse_loss = 1.0 / (jnp.where(known, losses, 1.0) + SMALLEST_LOSS)
    # It is the gradient of the log-loss that is remembered and must be finite.
    norm = _stacked.norms(step.grads, step.dtype)
    longest = norm * jnp.maximum(inverse_loss, 1.0)
    return (step, known, inverse_loss), jnp.isfinite(jnp.square(longest))

  def choose(measurements: Any, active: jax.Array, memory: Memory) -> Choice:
    step, known, inverse_loss = measurements
    known = active & known
    inverse_loss = jnp.where(known, inverse_loss, 0.0)
    time = (step.task_count + 1).astype(step.dtype)
    decay = jnp.asarray(beta, step.dtype) / time ** jnp.asarray(beta_decay, step.dtype)
    decay = jnp.where(known, decay, 1.0)
    grads = zero_inactive(active, step.grads)
    average = _stacked.mix(
      decay, memory["average"], (1.0 - decay) * inverse_loss, grads
    )
    length = zero_inactive(active, _stacked.norms(average, step.dtype))
    nonzero = length > 0
    # The derivative of `jnp.max` looks for numbers equal to the maximum. When they are
    # computed again, rounded otherwise, it finds none and is NaN.
    longest = length[jnp.argmax(length)]
    scale = jnp.where(nonzero, longest / jnp.where(nonzero, length, 1.0), 0.0)
    return Choice(
      memory={"average": average},
      combined=_stacked.combine(scale, average, _stacked.one_task(grads), active),
      head_weights=inverse_loss,
    )

  method = Method(measure, choose, init, values=("losses",), weighted=False)
  return aggregator(method, num_tasks=num_tasks, shared=shared, unshared=unshared)
