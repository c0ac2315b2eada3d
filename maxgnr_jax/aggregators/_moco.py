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
from maxgnr_jax.aggregators._reuse import reuses_steps


@reuses_steps
def moco(
  beta: jax.typing.ArrayLike = 0.5,
  gamma: jax.typing.ArrayLike = 0.1,
  *,
  beta_decay: jax.typing.ArrayLike = 0.5,
  gamma_decay: jax.typing.ArrayLike = 0.5,
  rho: jax.typing.ArrayLike = 0.0,
  num_tasks: int | None = None,
  shared: Shared = None,
  unshared: str = "weighted",
) -> optax.GradientTransformationExtraArgs:
  """Moves the weights one step at a time towards those of MGDA on averaged gradients.

  A running average y_k of each task's gradients is kept, because noise in the gradients
  would bias the weights. Each update moves the averages and takes the step
  ``w ← Π(w - γ (Y Yᵀ w + ρ w))``, where the rows of Y are the averages and Π projects
  on the simplex. The update is ``Σ_k w_k y_k``.

  Args:
    beta: β, how far an average moves towards the new gradient, in (0, 1]. In the t-th
      step in which a task is active it is divided by ``t^beta_decay``.
    gamma: γ, step size of the weights, at least 0, in units of 1 / ‖y‖². In step t it
      is divided by ``t^gamma_decay``.
    beta_decay: How fast ``beta`` falls, at least 0; with 0 it is constant.
    gamma_decay: How fast ``gamma`` falls, at least 0; with 0 it is constant.
    rho: ρ, regularisation that draws the weights towards uniform ones, at least 0.
    num_tasks: K, at least 1. By default it is taken from the first gradients, which
      changes the shapes of the state at the first step.
    shared: Selects the trunk, where gradients are averaged and measured: a pytree of
      bools like the parameters (or a prefix of it), or a function from the parameters
      to one. The other parameters get the weighted gradient of this step. Default: all
      parameters.
    unshared: "weighted" or "own", the gradients of parameters outside of ``shared``, as
      in :func:`~maxgnr_jax.maxgnr`.

  Returns:
    An :class:`optax.GradientTransformationExtraArgs` with :class:`AggregatorState`,
    whose memory holds the ``average`` of each task's gradients, stacked like the
    gradients of the trunk, and ``simplex_weights`` [K], the w that the next step would
    start from with all tasks active. The update is not a weighted sum of this step's
    gradients, so ``weights`` is None.

  Raises:
    ValueError: for ``beta`` outside (0, 1], ``gamma``, ``beta_decay``, ``gamma_decay``
      or ``rho`` < 0, or ``num_tasks`` < 1; at the trace of ``update``, for gradients
      that are not stacked, of another number of tasks or of other parameters than the
      state.
    TypeError: for integer or complex parameters or gradients.

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
    Convergent Approach, ICLR 2023, as in the authors' code for Office and NYUv2, with
    the defaults of LibMTL. The authors' code for Cityscapes, and LibMTL, use a softmax
    in place of the projection and scale each gradient to the length of its loss.
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
    def scalar(x):
      return jnp.asarray(x, step.dtype)

    task_time = (step.task_count + 1).astype(step.dtype)
    rate = scalar(beta) / task_time ** scalar(beta_decay)
    average = _stacked.decay(memory["average"], step.grads, 1.0 - rate, active)
    w, total = shares(active, memory["simplex_weights"])
    gramian = zero_inactive(active, _stacked.gramian(average, step.dtype), axes=2)
    slope = matvec(gramian, w) + scalar(rho) * w
    time = (step.count + 1).astype(step.dtype)
    moved = w - scalar(gamma) / time ** scalar(gamma_decay) * slope
    weights = project_on_simplex(jnp.where(active, moved, -jnp.inf))
    w = remember(active, total * weights, memory["simplex_weights"])
    return Choice(
      memory={"average": average, "simplex_weights": w},
      combined=_stacked.combine(weights, average, _stacked.one_task(average), active),
      head_weights=weights,
    )

  method = Method(measure, choose, init, weighted=False)
  return aggregator(method, num_tasks=num_tasks, shared=shared, unshared=unshared)
