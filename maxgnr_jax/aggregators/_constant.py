"""Weights that do not change: equal ones, or the user's."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from maxgnr_jax._linalg import uniform_weights
from maxgnr_jax.aggregators._base import (
  Choice,
  Memory,
  Method,
  Shared,
  Step,
  aggregator,
)


def equal_weights(
  *, num_tasks: int | None = None, shared: Shared = None
) -> optax.GradientTransformationExtraArgs:
  """The mean of the tasks' gradients.

  Args:
    num_tasks: K, at least 1. By default it is taken from the first gradients, which
      changes the shapes of the state at the first step.
    shared: Accepted so that methods can be exchanged by their name. The weights depend
      on no gradient, so that they are the same whatever it selects.

  Returns:
    An :class:`optax.GradientTransformationExtraArgs` with :class:`AggregatorState`.

  Example:
    >>> import jax.numpy as jnp
    >>> from maxgnr_jax.aggregators import equal_weights
    >>> tx = equal_weights()
    >>> updates, _ = tx.update(jnp.array([[2.0], [4.0]]), tx.init(jnp.zeros(1)))
    >>> updates.tolist()
    [3.0]
  """

  def choose(last: jax.Array, active: jax.Array, memory: Memory) -> Choice:
    del memory
    return Choice(uniform_weights(active, last.dtype))

  return aggregator(Method(_nothing, choose), num_tasks=num_tasks, shared=shared)


def constant_weights(
  weights: Sequence[float] | jax.Array,
  *,
  num_tasks: int | None = None,
  shared: Shared = None,
) -> optax.GradientTransformationExtraArgs:
  """The sum of the tasks' gradients with weights that the user gives.

  A task that is absent from a step leaves the others' weights as they are.

  Args:
    weights: [K], one finite number per task; one-hot trains a single task.
    num_tasks: K, if given: the number of ``weights``.
    shared: Accepted so that methods can be exchanged by their name. The weights depend
      on no gradient, so that they are the same whatever it selects.

  Returns:
    An :class:`optax.GradientTransformationExtraArgs` with :class:`AggregatorState`.

  Raises:
    ValueError: if ``weights`` is not a vector of finite numbers, or not of
      ``num_tasks``.

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

  check_number_of("weights", values, num_tasks)

  def choose(last: jax.Array, active: jax.Array, memory: Memory) -> Choice:
    del active, memory
    return Choice(jnp.asarray(values, last.dtype))

  return aggregator(Method(_nothing, choose), num_tasks=values.size, shared=shared)


def _nothing(step: Step, memory: Memory) -> tuple[Any, None]:
  """Measures nothing; the last weights have the shape and dtype of the next ones."""
  del memory
  return step.weights, None


def check_number_of(name: str, values: np.ndarray, num_tasks: int | None) -> None:
  """Raises unless there is one value per task, if ``num_tasks`` is given."""
  if num_tasks is not None and values.size != num_tasks:
    raise ValueError(
      f"`num_tasks` must be the number of `{name}`, {values.size}, or be left out, got "
      f"{num_tasks}."
    )
