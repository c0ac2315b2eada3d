"""Methods whose weights depend on the gradients through their inner products only."""

from collections.abc import Callable
from typing import Any

import jax
import optax

from maxgnr_jax._checks import check_weights
from maxgnr_jax._linalg._active import shared_out
from maxgnr_jax.aggregators._base import Choice, Step, method


def gramian_method(
  weighting: Callable[[jax.Array], jax.Array],
  *,
  num_tasks: int | None = None,
  shared: Any | Callable[[optax.Params], Any] | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Makes a transformation of a function from inner products to task weights.

  Takes stacked gradients and returns their weighted sum, as :func:`maxgnr` does.

  Args:
    weighting: From ``⟨g_i, g_j⟩`` [K, K] to weights [K]. Pure JAX. Rows and columns of
      a task that is absent from the step are 0; what weight it gets is shared out among
      the others in proportion.
    num_tasks: K, at least 1. By default taken from the first gradients; give it for
      ``lax.scan`` and ahead-of-time compilation.
    shared: Where inner products are measured, as in :func:`maxgnr`; a function is
      called with the shapes and dtypes of the parameters.

  Returns:
    An :class:`optax.GradientTransformationExtraArgs` with :class:`BaselineState`. Like
    :func:`maxgnr`'s its ``update`` takes ``task_mask`` and ``axis_name``, as all
    baselines' do, and a task whose gradient is not finite is absent from the step.

  Raises:
    ValueError: for ``num_tasks`` < 1; at the trace of ``update``, for gradients that
      are not stacked or of another number of tasks, and for weights that are not [K].
    TypeError: for integer or complex parameters or gradients.

  Example:
    >>> import jax.numpy as jnp
    >>> from maxgnr_jax.aggregators import gramian_method
    >>> def strongest_task(gramian):
    ...   return jnp.eye(len(gramian))[jnp.argmax(jnp.diagonal(gramian))]
    >>> tx = gramian_method(strongest_task)
    >>> params = jnp.zeros(2)
    >>> grads = jnp.array([[1.0, 0.0], [0.0, 3.0]])
    >>> updates, state = tx.update(grads, tx.init(params), params)
    >>> updates.tolist()
    [0.0, 3.0]
  """

  def rule(gramian: jax.Array, present: jax.Array) -> jax.Array:
    weights = check_weights(weighting(gramian), present.size, gramian.dtype)
    return shared_out(present, weights)

  return gramian_rule(rule, num_tasks=num_tasks, shared=shared)


def gramian_rule(
  rule: Callable[[jax.Array, jax.Array], jax.Array],
  *,
  num_tasks: int | None = None,
  shared: Any | Callable[[optax.Params], Any] | None = None,
) -> optax.GradientTransformationExtraArgs:
  """As :func:`gramian_method`, of a rule that knows which tasks are present.

  Args:
    rule: From ``⟨g_i, g_j⟩`` [K, K], with zeros for absent tasks, and the tasks that
      are present, [K] bool, to weights [K]: those of the present tasks must be as if
      there were no others; those of absent tasks may be anything.
    num_tasks: As in :func:`gramian_method`.
    shared: Likewise.
  """

  def choose(step: Step, memory: dict[str, Any]) -> Choice:
    return Choice(rule(step.gramian(), step.present), memory)

  return method(choose, first="gramian", num_tasks=num_tasks, shared=shared)
