"""Equal weights and weights that the user gives, which stay the same in all steps."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from maxgnr_jax._checks import check_at_least_one
from maxgnr_jax._linalg import uniform_weights
from maxgnr_jax._task_names import check_has_no_names
from maxgnr_jax.aggregators._base import (
  Choice,
  Memory,
  Method,
  Shared,
  Step,
  aggregator,
)
from maxgnr_jax.aggregators._reuse import reuses_steps


@reuses_steps
def equal_weights(
  *,
  num_tasks: int | None = None,
  shared: Shared = None,
  smoothing: jax.typing.ArrayLike | None = None,
  unshared: str = "weighted",
  rescale: str | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Takes the mean of the gradients of the active tasks.

  Args:
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
    An :class:`optax.GradientTransformationExtraArgs` with :class:`AggregatorState`.

  Raises:
    ValueError: for ``num_tasks`` < 1; at the trace of ``update``, for gradients that
      are not stacked or of another number of tasks.
    TypeError: for integer or complex parameters or gradients.

  Example:
    >>> import jax.numpy as jnp
    >>> from maxgnr_jax.aggregators import equal_weights
    >>> tx = equal_weights()
    >>> updates, _ = tx.update(jnp.array([[2.0], [4.0]]), tx.init(jnp.zeros(1)))
    >>> updates.tolist()
    [3.0]
  """

  def choose(last_weights: jax.Array, active: jax.Array, memory: Memory) -> Choice:
    del memory
    return Choice(uniform_weights(active, last_weights.dtype))

  return aggregator(
    Method(_last_weights, choose, measures="nothing", skips_zero=False),
    num_tasks=num_tasks,
    shared=shared,
    smoothing=smoothing,
    unshared=unshared,
    rescale=rescale,
  )


def constant_weights(
  weights: Sequence[float] | jax.Array,
  *,
  num_tasks: int | None = None,
  shared: Shared = None,
  smoothing: jax.typing.ArrayLike | None = None,
  unshared: str = "weighted",
  rescale: str | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Sums the gradients with weights that the user gives.

  The weight of an inactive task is 0 in that step and is not redistributed: the other
  tasks keep their weights.

  Args:
    weights: [K], one finite number per task. A one-hot vector trains a single task.
      In :func:`optax.inject_hyperparams` they are in its state, where they can be set.
    num_tasks: K, which must be the number of ``weights``. By default it is taken from
      ``weights``, so that it need not be given.
    shared: Accepted so that methods can be exchanged by their name. The weights depend
      on no gradient, so that they are the same whatever it selects.
    smoothing: Decay rate, in [0, 1), of an average of the weights over the steps, as in
      :func:`~maxgnr_jax.maxgnr`. Default: no average.
    unshared: "weighted" or "own", the gradients of parameters outside of ``shared``, as
      in :func:`~maxgnr_jax.maxgnr`.
    rescale: "mean" makes the update as long as the mean of the gradients, as in
      :func:`~maxgnr_jax.maxgnr`. Default: as long as the weights make it.

  Returns:
    An :class:`optax.GradientTransformationExtraArgs` with :class:`AggregatorState`.

  Raises:
    ValueError: for ``weights`` that are not a vector of finite numbers, or not
      ``num_tasks`` of them; at the trace of ``update``, for gradients that are not
      stacked or of another number of tasks.
    TypeError: for integer or complex parameters or gradients.

  Example:
    >>> import jax.numpy as jnp
    >>> from maxgnr_jax.aggregators import constant_weights
    >>> tx = constant_weights([1.0, 0.5])
    >>> updates, _ = tx.update(jnp.array([[2.0], [4.0]]), tx.init(jnp.zeros(1)))
    >>> updates.tolist()
    [4.0]
  """
  check_has_no_names("weights", weights)
  # Traced values are not known yet, as in a jitted `optax.inject_hyperparams`.
  values: np.ndarray | jax.Array
  if isinstance(weights, jax.core.Tracer):
    values, is_finite = weights, True
  else:
    values = np.asarray(weights, np.float64)
    is_finite = bool(np.isfinite(values).all())
  if values.ndim != 1 or not values.size or not is_finite:
    raise ValueError(
      f"`weights` must be a vector of one finite number per task, got {weights!r}."
    )

  check_number_of("weights", values, num_tasks)

  def choose(last_weights: jax.Array, active: jax.Array, memory: Memory) -> Choice:
    del active, memory
    return Choice(jnp.asarray(values, last_weights.dtype))

  return aggregator(
    Method(_last_weights, choose, measures="nothing", skips_zero=False),
    num_tasks=values.size,
    shared=shared,
    smoothing=smoothing,
    unshared=unshared,
    rescale=rescale,
  )


def _last_weights(step: Step, memory: Memory) -> tuple[Any, None]:
  """Returns the last weights, which have the dtype of the next ones, and no mask."""
  del memory
  return step.weights, None


def check_number_of(
  name: str, values: np.ndarray | jax.Array, num_tasks: int | None
) -> None:
  """Raises if ``num_tasks`` is given and is not the number of ``values``."""
  if num_tasks is None:
    return
  check_at_least_one("num_tasks", num_tasks)
  if values.size != num_tasks:
    raise ValueError(
      f"`num_tasks` must be the number of `{name}`, {values.size}, or be left out, got "
      f"{num_tasks}."
    )
