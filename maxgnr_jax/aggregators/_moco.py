"""MoCo, multi-objective gradient correction."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from maxgnr_jax import _stacked
from maxgnr_jax._checks import check_not_negative, check_range
from maxgnr_jax._linalg import matvec, project_on_simplex, remember, zero_inactive
from maxgnr_jax.aggregators._base import (
  Choice,
  Memory,
  Method,
  Shared,
  Step,
  aggregator,
)
from maxgnr_jax.aggregators._remembered import shares


def moco(
  beta: jax.typing.ArrayLike = 0.5,
  gamma: jax.typing.ArrayLike = 0.1,
  *,
  beta_decay: jax.typing.ArrayLike = 0.5,
  gamma_decay: jax.typing.ArrayLike = 0.5,
  rho: jax.typing.ArrayLike = 0.0,
  num_tasks: int | None = None,
  shared: Shared = None,
) -> optax.GradientTransformationExtraArgs:
  """MGDA on averaged gradients, whose weights take one step at a time.

  The average Y of each task's gradients corrects the bias that their noise brings into
  the weights. The weights take a projected step ``w ← Π(w - γ (Y Yᵀ w + ρ w))`` towards
  those of the shortest vector, and the update is ``Σ w_k y_k``.

  Args:
    beta: How far an average moves to the new gradient, in (0, 1]; at step t of the task
      it is ``beta / t^beta_decay``.
    gamma: Step size of the weights, at least 0, divided by ``t^gamma_decay``; in units
      of the inverse squared gradient.
    beta_decay: At least 0.
    gamma_decay: At least 0.
    rho: Weight of ``½ ‖w‖²``, at least 0, which keeps the weights apart.
    num_tasks: K, at least 1. By default it is taken from the first gradients, which
      changes the shapes of the state at the first step.
    shared: Where gradients are averaged and measured, likewise; elsewhere the weights
      apply to this step's gradients.

  Returns:
    An :class:`optax.GradientTransformationExtraArgs` with :class:`AggregatorState`, whose
    memory holds the ``average``, stacked gradients like those of the parameters, and
    the ``simplex_weights`` [K], what the weights are when all tasks are present.

  Raises:
    ValueError: for numbers out of range.

  Example:
    >>> import jax.numpy as jnp
    >>> from maxgnr_jax.aggregators import moco
    >>> tx = moco(beta=1.0, gamma=0.5)
    >>> grads = jnp.array([[1.0, 0.0], [0.0, 0.5]])
    >>> _, state = tx.update(grads, tx.init(jnp.zeros(2)))
    >>> [f"{weight:.2f}" for weight in state.memory["simplex_weights"]]
    ['0.41', '0.59']

  References:
    Fernando et al., Mitigating Gradient Bias in Multi-objective Learning: A Provably
    Convergent Approach, ICLR 2023, as in the authors' code for Office and NYUv2; the
    defaults are LibMTL's. Their code for Cityscapes, and LibMTL, take a softmax in
    place of the projection and give each gradient the length of its loss.
  """
  check_range("beta", beta, "in (0, 1]", lambda x: 0 < x <= 1)
  check_not_negative("gamma", gamma)
  check_not_negative("beta_decay", beta_decay)
  check_not_negative("gamma_decay", gamma_decay)
  check_not_negative("rho", rho)

  def init(params: Any, shape: tuple[int, ...], dtype: Any) -> Memory:
    (tasks,) = shape
    return {
      "average": _stacked.zeros(params, tasks, None),
      "simplex_weights": jnp.full(shape, 1.0 / max(tasks, 1), dtype),
    }

  def measure(step: Step, memory: Memory) -> tuple[Step, jax.Array]:
    average = memory["average"]
    _stacked.count_tasks(step.grads, _stacked.one_task(average), "the state")
    return step, step.finite()

  def choose(step: Step, active: jax.Array, memory: Memory) -> Choice:
    def number(x):
      return jnp.asarray(x, step.dtype)

    task_time = (step.task_count + 1).astype(step.dtype)
    follow = number(beta) / task_time ** number(beta_decay)
    average = _stacked.decay(memory["average"], step.grads, 1.0 - follow, active)
    w, total = shares(active, memory["simplex_weights"])
    gramian = zero_inactive(active, _stacked.gramian(average, step.dtype), axes=2)
    slope = matvec(gramian, w) + number(rho) * w
    time = (step.count + 1).astype(step.dtype)
    moved = w - number(gamma) / time ** number(gamma_decay) * slope
    weights = project_on_simplex(jnp.where(active, moved, -jnp.inf))
    w = remember(active, total * weights, memory["simplex_weights"])
    return Choice(
      memory={"average": average, "simplex_weights": w},
      combined=_stacked.combine(weights, average, _stacked.one_task(average), active),
      head_weights=weights,
    )

  method = Method(measure, choose, init, weighted=False)
  return aggregator(method, num_tasks=num_tasks, shared=shared)
