"""Weights that do not change: equal ones, or the user's."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from maxgnr_jax._linalg._active import equal_shares
from maxgnr_jax.aggregators._base import Choice, Step, method


def equal_weights(
  *, num_tasks: int | None = None
) -> optax.GradientTransformationExtraArgs:
  """The mean of the tasks' gradients.

  Args:
    num_tasks: As in :func:`gramian_method`.

  Returns:
    An :class:`optax.GradientTransformationExtraArgs` with :class:`BaselineState`.

  Example:
    >>> import jax.numpy as jnp
    >>> from maxgnr_jax.aggregators import equal_weights
    >>> tx = equal_weights()
    >>> updates, _ = tx.update(jnp.array([[2.0], [4.0]]), tx.init(jnp.zeros(1)))
    >>> updates.tolist()
    [3.0]
  """

  def choose(step: Step, memory: dict[str, Any]) -> Choice:
    return Choice(equal_shares(step.present, step.dtype), memory)

  return method(choose, num_tasks=num_tasks)


def constant_weights(
  weights: Sequence[float] | jax.Array,
) -> optax.GradientTransformationExtraArgs:
  """The sum of the tasks' gradients with weights that the user gives.

  A task that is absent from a step leaves the others' weights as they are.

  Args:
    weights: [K], one finite number per task; one-hot trains a single task.

  Returns:
    An :class:`optax.GradientTransformationExtraArgs` with :class:`BaselineState`.

  Raises:
    ValueError: if ``weights`` is not a vector of finite numbers.

  Example:
    >>> import jax.numpy as jnp
    >>> from maxgnr_jax.aggregators import constant_weights
    >>> tx = constant_weights([1.0, 0.5])
    >>> updates, _ = tx.update(jnp.array([[2.0], [4.0]]), tx.init(jnp.zeros(1)))
    >>> updates.tolist()
    [4.0]
  """
  values = np.asarray(weights, np.float64)
  if values.ndim != 1 or not values.size or not np.isfinite(values).all():
    raise ValueError(
      f"`weights` must be a vector of one finite number per task, got {weights!r}."
    )

  def choose(step: Step, memory: dict[str, Any]) -> Choice:
    return Choice(jnp.asarray(values, step.dtype), memory)

  return method(choose, num_tasks=values.size)
