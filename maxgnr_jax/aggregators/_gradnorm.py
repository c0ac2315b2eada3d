"""GradNorm, gradient normalization."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from maxgnr_jax._checks import check_not_negative, check_optimizer
from maxgnr_jax._linalg import norms, num_active, remember, zero_inactive
from maxgnr_jax._stacked import Labels
from maxgnr_jax.aggregators._base import (
  Choice,
  Memory,
  Method,
  Shared,
  Step,
  aggregator,
)
from maxgnr_jax.aggregators._gramian import in_each_group, measure_gramian
from maxgnr_jax.aggregators._remembered import learn, shares
from maxgnr_jax.aggregators._reuse import reuses_steps

LARGEST_RATIO = 1e15  # the quotient of two finite losses may be infinite


@reuses_steps
def gradnorm(
  alpha: jax.typing.ArrayLike = 1.5,
  optimizer: optax.GradientTransformation = optax.adam(0.025),
  *,
  num_tasks: int | None = None,
  shared: Shared = None,
  groups: Labels = None,
  sketch: int | bool | None = None,
  smoothing: jax.typing.ArrayLike | None = None,
  unshared: str = "weighted",
  rescale: str | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Learns weights that give larger gradients to tasks that train more slowly.

  The weighted norm ``w_k ‖g_k‖`` is drawn towards ``r_k^α`` times the mean of all
  weighted norms. Here ``r_k`` is the task's loss divided by its first loss, relative to
  the mean of this ratio over the tasks. An optimiser minimises the sum over the tasks
  of ``|w_k ‖g_k‖ - mean_j(w_j ‖g_j‖) r_k^α|`` with respect to the weights, with the
  targets held constant; the weights are then scaled to sum to K, the number of active
  tasks. Pass ``losses=`` to ``update``.

  Args:
    alpha: α, at least 0. Larger values balance the rates of training more strongly;
      with 0 all weighted norms are drawn towards their mean.
    optimizer: Optimiser of the weights, which start at 1.
    num_tasks: K, at least 1. By default it is taken from the first gradients, which
      changes the shapes of the state at the first step.
    shared: Selects the trunk, where gradients are measured: a pytree of bools like the
      parameters (or a prefix of it), or a function from the parameters to one. The
      paper measures in the last shared layer only. Default: all parameters.
    groups: Parameters that get task weights of their own: "layer", "parameter", a
      pytree of labels like the parameters or a prefix of it, or a function from the
      parameters to one. Default: the same weights for all.
    sketch: Measures sketches of the gradients, as :func:`gramian_method` explains:
      True, or an odd number of buckets from 3 to 65,535. Weights learn from signs of
      differences between norms, which errors change only where norms are close.
      Default: exact measurement.
    smoothing: Decay rate, in [0, 1), of an average of the weights over the steps, as in
      :func:`~maxgnr_jax.maxgnr`. Default: no average.
    unshared: "weighted" or "own", the gradients of parameters outside of ``shared``, as
      in :func:`~maxgnr_jax.maxgnr`.
    rescale: "mean" makes the update as long as the mean of the gradients, as in
      :func:`~maxgnr_jax.maxgnr`. Default: as long as the weights make it.

  Returns:
    An :class:`optax.GradientTransformationExtraArgs` with :class:`AggregatorState`,
    whose memory holds ``next_weights``, [K] or [G, K] with groups, ``first_losses`` [K]
    (each task's first positive loss, 0 before it) and ``optimizer``, the optimiser's
    state. While a task's loss is negative, its ratio to the first one counts as 1.

  Raises:
    ValueError: for ``alpha`` < 0 or ``num_tasks`` < 1; at the trace of ``update``, for
      gradients that are not stacked or of another number of tasks, and for ``losses``
      that are not one number per task.
    TypeError: if ``optimizer`` is not a gradient transformation, for integer or complex
      parameters or gradients, and if ``update`` is called without ``losses``.

  Example:
    >>> import jax.numpy as jnp
    >>> import optax
    >>> from maxgnr_jax.aggregators import gradnorm
    >>> tx = gradnorm(optimizer=optax.sgd(0.1), num_tasks=2)
    >>> state = tx.init(jnp.zeros(2))
    >>> grads = jnp.array([[3.0, 0.0], [0.0, 1.0]])
    >>> for _ in range(2):
    ...   _, state = tx.update(grads, state, losses=jnp.ones(2))
    >>> [f"{weight:.2f}" for weight in state.weights]  # 0.7 and 1.1 of sum 2
    ['0.78', '1.22']

  References:
    Chen et al., GradNorm: Gradient Normalization for Adaptive Loss Balancing in Deep
    Multitask Networks, ICML 2018, Algorithm 1. Weights that would become negative are
    set to 0; the paper does not say what happens to them.
  """
  check_not_negative("alpha", alpha)
  check_optimizer(optimizer)

  def init(params: Any, shape: tuple[int, ...], dtype: Any) -> Memory:
    del params
    weights = jnp.ones(shape, dtype)
    start = optimizer.init if len(shape) == 1 else jax.vmap(optimizer.init)
    return {
      "next_weights": weights,
      "first_losses": jnp.zeros(shape[-1:], dtype),
      "optimizer": start(weights),
    }

  def measure(step: Step, memory: Memory) -> tuple[Any, jax.Array]:
    gramian, finite = measure_gramian(step, memory)
    return (gramian, step.values["losses"]), finite

  def choose(measurements: Any, active: jax.Array, memory: Memory) -> Choice:
    gramian, losses = measurements
    dtype = losses.dtype
    number = num_active(active, dtype)

    def mean(values):
      return jnp.sum(zero_inactive(active, values)) / number

    first = memory["first_losses"]
    first = jnp.where((first == 0) & (losses >= 0), losses, first)
    known = (losses >= 0) & (first > 0)
    remaining = jnp.where(known, losses / jnp.where(known, first, 1.0), 1.0)
    remaining = jnp.minimum(remaining, LARGEST_RATIO)
    average = mean(remaining)
    rate = remaining / jnp.where(average > 0, average, 1.0)

    def learn_weights(gramian, next_weights, optimizer_state):
      share, total = shares(active, next_weights)
      weights = number * share
      norm = norms(zero_inactive(active, gramian, axes=2))
      weighted = weights * norm
      target = mean(weighted) * rate ** jnp.asarray(alpha, dtype)
      slope = jnp.sign(weighted - target) * norm
      slope = jnp.where(jnp.isfinite(slope), slope, 0.0)
      moved, after = learn(active, optimizer, slope, weights, optimizer_state)
      moved = jnp.maximum(moved, 0.0)
      sum_moved = jnp.sum(moved)
      positive = sum_moved > 0
      share = jnp.where(positive, moved / jnp.where(positive, sum_moved, 1.0), share)
      return weights, remember(active, total * share, next_weights), after

    weights, next_weights, optimizer_state = in_each_group(
      learn_weights, gramian, memory["next_weights"], memory["optimizer"]
    )
    new = {
      "next_weights": next_weights,
      "first_losses": remember(active, first, memory["first_losses"]),
      "optimizer": optimizer_state,
    }
    return Choice(weights, new)

  method = Method(measure, choose, init, values=("losses",), measures="gramian")
  return aggregator(
    method,
    num_tasks=num_tasks,
    shared=shared,
    smoothing=smoothing,
    unshared=unshared,
    rescale=rescale,
    groups=groups,
    sketch=sketch,
  )
