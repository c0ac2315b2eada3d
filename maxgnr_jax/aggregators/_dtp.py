"""DTP, dynamic task prioritization."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from maxgnr_jax._checks import check_not_negative, check_range
from maxgnr_jax._linalg import remember
from maxgnr_jax.aggregators._base import (
  Choice,
  Memory,
  Method,
  Shared,
  Step,
  aggregator,
)
from maxgnr_jax.aggregators._reuse import reuses_steps

SMALLEST_KPI = 1e-6  # lower running means are raised to it, for a finite logarithm


@reuses_steps
def dtp(
  gamma: jax.typing.ArrayLike = 1.0,
  alpha: jax.typing.ArrayLike = 0.1,
  *,
  num_tasks: int | None = None,
  shared: Shared = None,
  smoothing: jax.typing.ArrayLike | None = None,
  unshared: str = "weighted",
  rescale: str | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Gives more weight to tasks that perform badly on a metric of the user's choice.

  Pass ``kpis=`` to ``update``: for each task a key performance indicator κ in [0, 1],
  such as its accuracy, where 1 is perfect. The weight of a task is
  ``-(1 - κ̄)^γ log κ̄``, with the running mean ``κ̄ ← α κ + (1 - α) κ̄``.

  Args:
    gamma: γ, at least 0. Larger values give less weight to tasks that perform well.
    alpha: α, in (0, 1]. Larger values make the running mean follow κ faster; with 1 it
      is κ itself.
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
    whose memory holds ``kpi`` [K], the running means: 1 before a task's first step, in
    which it becomes that step's κ.

  Raises:
    ValueError: for ``gamma`` < 0, ``alpha`` outside (0, 1] or ``num_tasks`` < 1; at the
      trace of ``update``, for gradients that are not stacked or of another number of
      tasks, and for ``kpis`` that are not one number per task.
    TypeError: for integer or complex parameters or gradients, and if ``update`` is
      called without ``kpis``.

  Example:
    >>> import jax.numpy as jnp
    >>> from maxgnr_jax.aggregators import dtp
    >>> tx = dtp(num_tasks=2)
    >>> kpis = jnp.array([0.9, 0.3])
    >>> _, state = tx.update(jnp.eye(2), tx.init(jnp.zeros(2)), kpis=kpis)
    >>> [f"{weight:.2f}" for weight in state.weights]
    ['0.01', '0.84']

  References:
    Guo et al., Dynamic Task Prioritization for Multitask Learning, ECCV 2018. The
    formulas follow third-party implementations; the defaults are taken from one of
    them.
  """
  check_not_negative("gamma", gamma)
  check_range("alpha", alpha, "in (0, 1]", lambda x: 0 < x <= 1)

  def init(params: Any, shape: tuple[int, ...], dtype: Any) -> Memory:
    del params
    return {"kpi": jnp.ones(shape, dtype)}

  def measure(step: Step, memory: Memory) -> tuple[Any, None]:
    del memory
    return (step.values["kpis"], step.task_count), None

  def choose(measurements: Any, active: jax.Array, memory: Memory) -> Choice:
    (kpis, task_count), mean = measurements, memory["kpi"]
    rate = jnp.where(task_count == 0, 1.0, jnp.asarray(alpha, kpis.dtype))
    mean = remember(active, mean + rate * (kpis - mean), mean)
    kpi = jnp.clip(mean, SMALLEST_KPI, 1.0)
    weights = -((1.0 - kpi) ** jnp.asarray(gamma, kpis.dtype)) * jnp.log(kpi)
    return Choice(weights, {"kpi": mean})

  method = Method(measure, choose, init, values=("kpis",), measures="nothing")
  return aggregator(
    method,
    num_tasks=num_tasks,
    shared=shared,
    smoothing=smoothing,
    unshared=unshared,
    rescale=rescale,
  )
