"""Methods whose weights depend on the gradients through their Gramian only."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from maxgnr_jax._checks import as_weights, check_choice
from maxgnr_jax._linalg import redistribute, zero_inactive
from maxgnr_jax._stacked import Labels
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
def gramian_method(
  weighting: Callable[[jax.Array], jax.Array],
  *,
  num_tasks: int | None = None,
  shared: Shared = None,
  groups: Labels = None,
  sketch: int | bool | None = None,
  zero_gradients: str = "inactive",
  smoothing: jax.typing.ArrayLike | None = None,
  unshared: str = "weighted",
  rescale: str | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Makes an aggregator of a function from the Gramian to task weights.

  Takes stacked gradients and returns their weighted sum, as
  :func:`maxgnr_jax.maxgnr` does.

  Args:
    weighting: From ``⟨g_i, g_j⟩`` [K, K] to weights [K]. Pure JAX. Rows and columns of
      an inactive task are 0; whatever weight it gets is redistributed to the active
      tasks in proportion to theirs.
    num_tasks: K, at least 1. By default it is taken from the first gradients, which
      changes the shapes of the state at the first step. Give it for ``lax.scan``,
      ahead-of-time compilation and checkpoints made before the first step.
    shared: Selects the trunk, where gradients are measured: a pytree of bools like the
      parameters (or a prefix of it), or a function from the parameters to one. The
      other parameters get their weighted gradient. Default: all parameters.
    groups: Parameters that get task weights of their own: "layer", "parameter", a
      pytree of labels like the parameters or a prefix of it, or a function from the
      parameters to one. Default: the same weights for all.
    sketch: Measures a sketch of each gradient in place of all its numbers: they are
      added up, with pseudo-random signs that are the same in every step, in this many
      buckets, an odd number (a prime is best) from 3 to 65,535. True takes 16,381.
      Measuring then reads each gradient once, and without groups
      :func:`~maxgnr_jax.value_and_combined_grad` needs no two of them at the same time.
      An entry of the Gramian has an error of about ``sqrt(2 / sketch)``, 1 %, of the
      product of the two norms. More than that, every weighted sum of the gradients
      keeps its length up to about ``sqrt(K / sketch)`` of itself, also where it nearly
      vanishes: rules that project gradients or minimise a length suit sketches as well
      as those that look at norms and cosines do. Rules that select or compare may jump.
      Inside :func:`jax.shard_map` ``update`` also needs ``param_specs``. Default: exact
      measurement.
    zero_gradients: "inactive" or "active": whether a task whose gradient is exactly
      zero is left out of the step, as if ``task_mask`` were False for it, or takes part
      in it. With groups a task is also left out of a group of which its gradient is
      zero.
    smoothing: Decay rate, in [0, 1), of an average of the weights over the steps, as in
      :func:`~maxgnr_jax.maxgnr`. Default: no average.
    unshared: "weighted" or "own", the gradients of parameters outside of ``shared``, as
      in :func:`~maxgnr_jax.maxgnr`.
    rescale: "mean" makes the update as long as the mean of the gradients, as in
      :func:`~maxgnr_jax.maxgnr`. Default: as long as the weights make it.

  Returns:
    An :class:`optax.GradientTransformationExtraArgs` with :class:`AggregatorState`. Its
    ``update`` takes ``task_mask`` and ``axis_name``, as :func:`aggregator` says.

  Raises:
    ValueError: for ``num_tasks`` < 1 and other values of ``sketch`` or
      ``zero_gradients``; at the trace of ``update``, for gradients that are not stacked
      or of another number of tasks, and for weights that are not [K].
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

  def rule(gramian: jax.Array, active: jax.Array) -> jax.Array:
    weights = as_weights(weighting(gramian), active.shape, gramian.dtype)
    return redistribute(active, weights)

  return gramian_rule(
    rule,
    num_tasks=num_tasks,
    shared=shared,
    smoothing=smoothing,
    unshared=unshared,
    rescale=rescale,
    groups=groups,
    sketch=sketch,
    zero_gradients=zero_gradients,
  )


def gramian_rule(
  rule: Callable[[jax.Array, jax.Array], jax.Array],
  *,
  zero_gradients: str = "inactive",
  **frame: Any,
) -> optax.GradientTransformationExtraArgs:
  """Makes an aggregator of a rule that knows which tasks are active.

  Args:
    rule: From the Gramian [K, K], with zeros for inactive tasks, and the active tasks,
      [K] bool, to weights [K]. Those of the active tasks must be as if there were no
      others; those of inactive tasks may be anything.
    zero_gradients: See :func:`gramian_method`.
    **frame: Arguments of :func:`aggregator`.
  """
  skips_zero = skips_zero_gradients(zero_gradients)

  def choose(gramian: jax.Array, active: jax.Array, memory: Memory) -> Choice:
    del memory
    in_groups = skips_zero and gramian.ndim == 3

    def weigh(gramian):
      used = tasks_of_group(active, gramian) if in_groups else active
      return rule(zero_inactive(used, gramian, axes=2), used)

    return Choice(in_each_group(weigh, gramian))

  method = Method(measure_gramian, choose, measures="gramian", skips_zero=skips_zero)
  return aggregator(method, **frame)


def skips_zero_gradients(zero_gradients: str) -> bool:
  """Tells whether tasks with a gradient of exactly zero are inactive.

  Args:
    zero_gradients: An argument of that name.

  Raises:
    ValueError: unless it is "inactive" or "active".
  """
  check_choice("zero_gradients", zero_gradients, ("inactive", "active"))
  return zero_gradients == "inactive"


def tasks_of_group(active: jax.Array, gramian: jax.Array) -> jax.Array:
  """Returns the active tasks that have a gradient in a group, [K] bool.

  A group may hold parameters that only some of the tasks use, such as a head.
  """
  return active & (jnp.diagonal(gramian) > 0)


def measure_gramian(step: Step, memory: Memory) -> tuple[jax.Array, jax.Array]:
  """Measures the Gramian, [K, K] or [G, K, K], whose diagonal tells who is finite."""
  del memory
  gramian = step.gramian()
  return gramian, finite_in(gramian)


def finite_in(gramian: jax.Array) -> jax.Array:
  """Tells which tasks' gradients are finite, [K], by the Gramian of every group."""
  finite = jnp.isfinite(jnp.diagonal(gramian, axis1=-2, axis2=-1))
  return finite if gramian.ndim == 2 else jnp.all(finite, axis=0)


def in_each_group(fun: Callable[..., Any], gramian: jax.Array, *rest: Any) -> Any:
  """Calls ``fun``; with groups, once for each, under :func:`jax.vmap`.

  Args:
    fun: Function of a Gramian [K, K] and more.
    gramian: [K, K], or [G, K, K] with groups.
    *rest: Further arguments, pytrees of arrays with the groups, if there are any, on
      the leading axis.
  """
  return (fun if gramian.ndim == 2 else jax.vmap(fun))(gramian, *rest)
