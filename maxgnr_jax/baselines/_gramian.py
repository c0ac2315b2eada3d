"""Methods whose weights depend on the gradients through their inner products only."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from maxgnr_jax import _shared, _stacked
from maxgnr_jax._checks import (
  check_floating,
  check_num_tasks,
  check_same_tasks,
  check_stacked,
  check_state,
  check_weights,
  initial_tasks,
)


class GramianState(NamedTuple):
  """State of a :func:`gramian_method`; read with ``optax.tree.get(opt_state, name)``.

  Attributes:
    count: [], int32. Number of updates.
    weights: [K], float32, or float64 where the parameters are. The last step's
      weights; K is 0 until the first step with ``num_tasks=None``.
  """

  count: jax.Array  # type: ignore[assignment]
  weights: jax.Array


def gramian_method(
  weighting: Callable[[jax.Array], jax.Array],
  *,
  num_tasks: int | None = None,
  shared: Any | Callable[[optax.Params], Any] | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Makes a transformation of a function from inner products to task weights.

  Takes stacked gradients and returns their weighted sum, as :func:`maxgnr` does.

  Args:
    weighting: From ``⟨g_i, g_j⟩`` [K, K] to weights [K]. Pure JAX.
    num_tasks: K, at least 1. By default taken from the first gradients; give it for
      ``lax.scan`` and ahead-of-time compilation.
    shared: Where inner products are measured, as in :func:`maxgnr`; a function is
      called with the shapes and dtypes of the parameters.

  Returns:
    An :class:`optax.GradientTransformationExtraArgs` with :class:`GramianState`.

  Raises:
    ValueError: for ``num_tasks`` < 1; at the trace of ``update``, for gradients that
      are not stacked or of another number of tasks, and for weights that are not [K].
    TypeError: for integer or complex parameters or gradients.

  Example:
    >>> import jax.numpy as jnp
    >>> from maxgnr_jax.baselines import gramian_method
    >>> def strongest_task(gramian):
    ...   return jnp.eye(len(gramian))[jnp.argmax(jnp.diagonal(gramian))]
    >>> tx = gramian_method(strongest_task)
    >>> params = jnp.zeros(2)
    >>> grads = jnp.array([[1.0, 0.0], [0.0, 3.0]])
    >>> updates, state = tx.update(grads, tx.init(params), params)
    >>> updates.tolist()
    [0.0, 3.0]
  """
  check_num_tasks(num_tasks)

  def init(params: optax.Params) -> GramianState:
    check_floating(params, "Parameters")
    tasks = initial_tasks(num_tasks)
    weights = jnp.full((tasks,), 1.0 / max(tasks, 1), _stacked.compute_dtype(params))
    return GramianState(count=jnp.zeros((), jnp.int32), weights=weights)

  def update(
    grads: optax.Updates,
    state: GramianState,
    params: optax.Params | None = None,
    **extra_args: Any,
  ) -> tuple[optax.Updates, GramianState]:
    del extra_args
    check_state(state, GramianState)
    check_floating(grads, "Gradients")
    if not jax.tree.leaves(grads):
      return _shared.nothing_to_measure(grads), state
    like = _stacked.one_task(grads) if params is None else params
    tasks = check_stacked(
      grads, like, "the gradients" if params is None else "the parameters"
    )
    if state.weights.size:
      check_same_tasks(tasks, state.weights.size)
    measured = _shared.restrict(grads, _shared.select(shared, _stacked.one_task(grads)))
    dtype = state.weights.dtype
    weights = check_weights(weighting(_stacked.gram(measured, dtype)), tasks, dtype)
    count = optax.safe_increment(state.count)
    return _stacked.combine(weights, grads, like), GramianState(count, weights)

  return optax.GradientTransformationExtraArgs(init, update)


def inverse_norms(gramian: jax.Array) -> jax.Array:
  """``1 / ‖g_k‖``, 0 for a task without gradient."""
  squared = jnp.diagonal(gramian)
  present = squared > 0
  return jnp.where(present, 1.0 / jnp.sqrt(jnp.where(present, squared, 1.0)), 0.0)


def cosines(gramian: jax.Array) -> jax.Array:
  """The cosines between the gradients; 0 for a task without gradient."""
  inverse = inverse_norms(gramian)
  return gramian * inverse[:, None] * inverse[None, :]
