"""DTP, dynamic task prioritization."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from maxgnr_jax._checks import check_not_negative, check_range
from maxgnr_jax.aggregators._base import Choice, Step, method

SMALLEST_KPI = 1e-6


def dtp(
  gamma: jax.typing.ArrayLike = 1.0,
  alpha: jax.typing.ArrayLike = 0.1,
  *,
  num_tasks: int | None = None,
) -> optax.GradientTransformationExtraArgs:
  """More weight for the tasks that perform badly by a measure of the user's.

  Pass ``kpis=`` to ``update``: per task a key performance indicator κ in [0, 1], such
  as the accuracy, where 1 is perfect. Its running mean ``κ̄ ← α κ + (1 - α) κ̄`` gives
  the focal weight ``-(1 - κ̄)^γ log κ̄``.

  Args:
    gamma: γ, at least 0: how strongly good tasks are neglected.
    alpha: α, in (0, 1]: how fast the running mean follows.
    num_tasks: As in :func:`gramian_method`.

  Returns:
    An :class:`optax.GradientTransformationExtraArgs` with :class:`BaselineState`, whose
    memory holds the running means ``kpi`` [K].

  Raises:
    ValueError: for ``gamma`` < 0 or ``alpha`` outside (0, 1].
    TypeError: if ``update`` is called without ``kpis``.

  Example:
    >>> import jax.numpy as jnp
    >>> from maxgnr_jax.aggregators import dtp
    >>> tx = dtp(num_tasks=2)
    >>> kpis = jnp.array([0.9, 0.3])
    >>> _, state = tx.update(jnp.eye(2), tx.init(jnp.zeros(2)), kpis=kpis)
    >>> [f"{weight:.2f}" for weight in state.weights]
    ['0.01', '0.84']

  References:
    Guo et al., Dynamic Task Prioritization for Multitask Learning, ECCV 2018, as
    implementations of others give it; the defaults are those of one of them.
  """
  check_not_negative("gamma", gamma)
  check_range("alpha", alpha, "in (0, 1]", lambda x: 0 < x <= 1)

  def memory(params, tasks, dtype):
    del params
    return {"kpi": jnp.ones((tasks,), dtype)}

  def choose(step: Step, memory: dict[str, Any]) -> Choice:
    now, mean = step.task_values("kpis"), memory["kpi"]
    follow = jnp.where(step.task_count == 0, 1.0, jnp.asarray(alpha, step.dtype))
    mean = step.remember(mean + follow * (now - mean), mean)
    kpi = jnp.clip(mean, SMALLEST_KPI, 1.0)
    weights = -((1.0 - kpi) ** jnp.asarray(gamma, step.dtype)) * jnp.log(kpi)
    return Choice(weights, {"kpi": mean})

  return method(choose, memory, values=("kpis",), num_tasks=num_tasks)
