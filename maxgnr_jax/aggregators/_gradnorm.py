"""GradNorm, gradient normalization."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from maxgnr_jax._checks import check_not_negative, check_optimizer
from maxgnr_jax._linalg._gramian import norms
from maxgnr_jax.aggregators._base import Choice, Step, method
from maxgnr_jax.aggregators._remembered import learn, shares


def gradnorm(
  alpha: jax.typing.ArrayLike = 1.5,
  optimizer: optax.GradientTransformation = optax.adam(0.025),
  *,
  num_tasks: int | None = None,
  shared: Any = None,
) -> optax.GradientTransformationExtraArgs:
  """Learns weights under which tasks that train more slowly have larger gradients.

  The norm ``w_k ‖g_k‖`` shall be the mean of all norms times ``r_k^α``, where r_k is
  the task's loss in units of its first one, divided by the mean of these. Weights
  follow the gradient of ``Σ_k |w_k ‖g_k‖ - mean r_k^α|`` and are then scaled to sum to
  K. Pass ``losses=`` to ``update``.

  Args:
    alpha: α, at least 0: how strongly the rates of training are drawn together.
    optimizer: What learns the weights; they start at 1.
    num_tasks: As in :func:`gramian_method`.
    shared: Where norms are measured, likewise. The paper takes the last shared layer.

  Returns:
    An :class:`optax.GradientTransformationExtraArgs` with :class:`BaselineState`, whose
    memory holds the ``next_weights`` [K], the ``first_losses`` [K] and the state of
    ``optimizer``. A negative loss counts as the first one.

  Raises:
    ValueError: for ``alpha`` < 0.
    TypeError: if ``optimizer`` is none, or ``update`` is called without ``losses``.

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
    Multitask Networks, ICML 2018, Algorithm 1. Weights that would become negative stop
    at 0, of which the paper does not speak.
  """
  check_not_negative("alpha", alpha)
  check_optimizer(optimizer)

  def memory(params, tasks, dtype):
    del params
    weights = jnp.ones((tasks,), dtype)
    return {
      "next_weights": weights,
      "first_losses": jnp.zeros((tasks,), dtype),
      "optimizer": optimizer.init(weights),
    }

  def choose(step: Step, memory: dict[str, Any]) -> Choice:
    def mean(values):
      return jnp.sum(step.among(values)) / step.num_present

    losses, first = step.task_values("losses"), memory["first_losses"]
    first = jnp.where((first == 0) & (losses >= 0), losses, first)
    known = (losses >= 0) & (first > 0)
    remaining = jnp.where(known, losses / jnp.where(known, first, 1.0), 1.0)
    average = mean(remaining)
    rate = remaining / jnp.where(average > 0, average, 1.0)

    share, together = shares(step, memory["next_weights"])
    weights = step.num_present * share
    norm = norms(step.gramian())
    weighted = weights * norm
    wanted = mean(weighted) * rate ** jnp.asarray(alpha, step.dtype)
    slope = jnp.sign(weighted - wanted) * norm
    slope = jnp.where(jnp.isfinite(slope), slope, 0.0)
    moved, optimizer_state = learn(step, optimizer, slope, weights, memory["optimizer"])
    moved = jnp.maximum(moved, 0.0)
    total = jnp.sum(moved)
    share = jnp.where(total > 0, moved / jnp.where(total > 0, total, 1.0), share)
    new = {
      "next_weights": together * share,
      "first_losses": first,
      "optimizer": optimizer_state,
    }
    return Choice(weights, step.remember(new, memory))

  return method(
    choose,
    memory,
    values=("losses",),
    first="gramian",
    num_tasks=num_tasks,
    shared=shared,
  )
