"""FAMO, fast adaptive multitask optimization."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from maxgnr_jax._checks import check_optimizer
from maxgnr_jax._linalg import active_softmax, remember
from maxgnr_jax._task_names import check_has_no_names
from maxgnr_jax.aggregators._base import (
  Choice,
  Memory,
  Method,
  Shared,
  Step,
  aggregator,
)
from maxgnr_jax.aggregators._remembered import learn
from maxgnr_jax.aggregators._reuse import reuses_steps

# Added to every loss before its logarithm is taken, as in the authors' code.
SMALLEST_LOSS = 1e-8


@reuses_steps
def famo(
  optimizer: optax.GradientTransformation = optax.chain(
    optax.add_decayed_weights(1e-3), optax.adam(0.025)
  ),
  min_losses: jax.typing.ArrayLike = 0.0,
  *,
  num_tasks: int | None = None,
  shared: Shared = None,
  smoothing: jax.typing.ArrayLike | None = None,
  unshared: str = "weighted",
  rescale: str | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Learns weights under which all losses fall at the same relative rate.

  With ``z = softmax(ξ)`` the weights are ``w_k ∝ z_k / L_k``, of sum 1. An optimiser
  learns the logits ξ from how much the logarithm of each loss fell in the last step;
  gradients are not measured. Pass ``losses=`` to ``update``.

  The authors compare the losses of one batch before and after a step. To do so, also
  pass ``losses_after_step=``: the losses of the previous step's batch at the current
  parameters, which take another forward pass. Without them the previous ``losses`` are
  compared with the current ones, which costs nothing but is noisier, because the
  batches differ.

  A task does not update the logits in its first step. With ``losses_after_step``, it
  also does not if it was inactive in the last step or its value there is not finite.

  Args:
    optimizer: Optimiser of the logits, which start at 0. The default is Adam with the
      logits decayed by 1e-3; the authors decay them by 1e-3 to 1e-2.
    min_losses: The lowest losses that can be reached, a number or [K]. They are
      subtracted from the losses; the default 0 suits losses that can fall to 0.
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
    whose memory holds ``logits`` [K], ``last_losses`` [K] (each task's loss in the last
    step in which it was active) and ``optimizer``, the optimiser's state.

  Raises:
    ValueError: for ``num_tasks`` < 1; at the trace of ``update``, for gradients that
      are not stacked or of another number of tasks, and for ``losses`` or
      ``losses_after_step`` that are not one number per task.
    TypeError: if ``optimizer`` is not a gradient transformation, for integer or complex
      parameters or gradients, and if ``update`` is called without ``losses``.

  Example:
    >>> import jax.numpy as jnp
    >>> from maxgnr_jax.aggregators import famo
    >>> tx = famo(num_tasks=2)
    >>> _, state = tx.update(
    ...   jnp.eye(2), tx.init(jnp.zeros(2)), losses=jnp.array([3.0, 1.0])
    ... )
    >>> [f"{weight:.2f}" for weight in state.weights]
    ['0.25', '0.75']

  References:
    Liu et al., FAMO: Fast Adaptive Multitask Optimization, NeurIPS 2023, Algorithm 1.
    The paper uses plain gradient descent for the logits; the default optimiser is Adam,
    as in the authors' code.
  """
  check_optimizer(optimizer)
  check_has_no_names("min_losses", min_losses)

  def init(params: Any, shape: tuple[int, ...], dtype: Any) -> Memory:
    del params
    logits = jnp.zeros(shape, dtype)
    return {
      "logits": logits,
      "last_losses": jnp.ones(shape, dtype),
      "optimizer": optimizer.init(logits),
    }

  def measure(step: Step, memory: Memory) -> tuple[Any, None]:
    del memory
    return (step.values, step.task_count, step.weights), None

  def choose(measurements: Any, active: jax.Array, memory: Memory) -> Choice:
    values, task_count, last_weights = measurements
    after = losses = values["losses"]
    learning = active & (task_count > 0)
    if "losses_after_step" in values:
      after = values["losses_after_step"]
      # A task that was inactive in the last step had no weight in it.
      learning &= jnp.isfinite(after) & (last_weights > 0)

    def excess(values):
      above = values - jnp.asarray(min_losses, losses.dtype)
      return jnp.maximum(above, 0.0) + SMALLEST_LOSS

    progress = jnp.log(excess(memory["last_losses"])) - jnp.log(excess(after))
    progress = jnp.where(learning, progress, 0.0)
    z = active_softmax(learning, memory["logits"])
    slope = z * (progress - jnp.vdot(z, progress))
    logits, optimizer_state = learn(
      learning, optimizer, slope, memory["logits"], memory["optimizer"]
    )
    # Dividing by losses in units of the smallest one keeps the quotients in [0, 1].
    infinite = jnp.where(jnp.any(active), jnp.inf, 1.0).astype(losses.dtype)
    divisor = jnp.where(active, excess(losses), infinite)
    smallest = jnp.min(divisor)
    share = active_softmax(active, logits)
    share *= jnp.where(active, smallest / divisor, 0.0)
    total = jnp.sum(share)
    weights = share / jnp.where(total > 0, total, 1.0)
    last = remember(active, losses, memory["last_losses"])
    return Choice(
      weights,
      {"logits": logits, "last_losses": last, "optimizer": optimizer_state},
    )

  method = Method(
    measure,
    choose,
    init,
    values=("losses",),
    optional_values=("losses_after_step",),
    measures="nothing",
  )
  return aggregator(
    method,
    num_tasks=num_tasks,
    shared=shared,
    smoothing=smoothing,
    unshared=unshared,
    rescale=rescale,
  )
