"""Krum, which selects the gradients that lie closest to others."""

import jax
import jax.numpy as jnp
import optax

from maxgnr_jax._checks import check_integer
from maxgnr_jax._linalg import only_active, uniform_weights, unit_products
from maxgnr_jax._stacked import Labels
from maxgnr_jax.aggregators._base import Shared
from maxgnr_jax.aggregators._gramian import gramian_rule
from maxgnr_jax.aggregators._reuse import reuses_steps


@reuses_steps
def krum(
  num_byzantine: int = 0,
  num_selected: int = 1,
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
  """Averages the gradients that lie closest to other gradients.

  A gradient's score is the sum of its squared distances to the nearest
  ``K - num_byzantine - 2`` other gradients. The gradients with the lowest scores are
  averaged. The method comes from federated learning, where some of the K workers may
  send arbitrary gradients.

  In a step with inactive tasks K is the number of active ones. If fewer than
  ``num_byzantine + 3`` are active, the score is the squared distance to the nearest
  gradient alone, and the method no longer guards against arbitrary gradients. If fewer
  than ``num_selected`` are active, all of them are averaged.

  Args:
    num_byzantine: Number of gradients that may be arbitrary, at least 0 and at most
      K - 3.
    num_selected: Number of gradients that are averaged, at least 1 and at most K. With
      1 the method is Krum, with more it is Multi-Krum.
    num_tasks: K, at least 1. By default it is taken from the first gradients, which
      changes the shapes of the state at the first step.
    shared: Selects the trunk, where gradients are measured: a pytree of bools like the
      parameters (or a prefix of it), or a function from the parameters to one. Default:
      all parameters.
    groups: Parameters that get task weights of their own: "layer", "parameter", a
      pytree of labels like the parameters or a prefix of it, or a function from the
      parameters to one. Default: the same weights for all.
    sketch: Measures sketches of the gradients, as :func:`gramian_method` explains:
      True, or an odd number of buckets from 3 to 65,535. If two gradients have nearly
      the same score, another one may be selected. Default: exact measurement.
    zero_gradients: "inactive" or "active": whether a task whose gradient is exactly
      zero is left out of the step, as if ``task_mask`` were False for it, or takes part
      as the method defines it: it may be selected.
    smoothing: Decay rate, in [0, 1), of an average of the weights over the steps, as in
      :func:`~maxgnr_jax.maxgnr`. Default: no average.
    unshared: "weighted" or "own", the gradients of parameters outside of ``shared``, as
      in :func:`~maxgnr_jax.maxgnr`.
    rescale: "mean" makes the update as long as the mean of the gradients, as in
      :func:`~maxgnr_jax.maxgnr`. Default: as long as the weights make it.

  Returns:
    An :class:`optax.GradientTransformationExtraArgs` with :class:`AggregatorState`.

  Raises:
    ValueError: for ``num_byzantine`` < 0, ``num_selected`` < 1, ``num_tasks`` < 1 or
      another value of ``zero_gradients``; at the trace of ``update``, for fewer than
      ``num_byzantine + 3`` or ``num_selected`` tasks, and for gradients that are not
      stacked or of another number of tasks.
    TypeError: for integer or complex parameters or gradients, and for a traced
      ``num_byzantine`` or ``num_selected``.

  Example:
    >>> import jax.numpy as jnp
    >>> from maxgnr_jax.aggregators import krum
    >>> tx = krum(num_byzantine=1)
    >>> grads = jnp.array([[1.0], [1.1], [1.3], [-50.0]])
    >>> updates, _ = tx.update(grads, tx.init(jnp.zeros(1)))
    >>> f"{updates[0]:.1f}"
    '1.0'

  References:
    Blanchard et al., Machine Learning with Adversaries: Byzantine Tolerant Gradient
    Descent, NeurIPS 2017, Section 4. TorchJD sums the distances without squaring them.
  """
  check_integer("num_byzantine", num_byzantine, 0)
  check_integer("num_selected", num_selected, 1)
  return gramian_rule(
    lambda gramian, active: krum_weights(gramian, num_byzantine, num_selected, active),
    num_tasks=num_tasks,
    shared=shared,
    smoothing=smoothing,
    unshared=unshared,
    rescale=rescale,
    groups=groups,
    sketch=sketch,
    zero_gradients=zero_gradients,
  )


def krum_weights(
  gramian: jax.Array,
  num_byzantine: int = 0,
  num_selected: int = 1,
  active: jax.Array | bool = True,
) -> jax.Array:
  """Returns the weights of :func:`krum` for a Gramian.

  Args:
    gramian: [K, K], ``⟨g_i, g_j⟩``.
    num_byzantine: Number of gradients that may be arbitrary, from 0 to K - 3.
    num_selected: Number of gradients to average, from 1 to K.
    active: [K], bool: the tasks to combine; the weights of others are 0. There may be
      fewer than the other arguments need: :func:`krum` says what happens then.

  Returns:
    Weights [K] of sum 1, equal ones for the selected tasks and 0 for the others.

  Raises:
    ValueError: if K is less than ``num_byzantine + 3`` or ``num_selected``.
  """
  size = len(gramian)
  if size < max(num_byzantine + 3, num_selected):
    raise ValueError(
      f"Krum needs at least `num_byzantine` + 3 and `num_selected` tasks, got {size} "
      f"tasks with num_byzantine={num_byzantine} and num_selected={num_selected}. "
      "Lower these or pass more tasks."
    )
  active, gramian = only_active(active, gramian)
  number = jnp.sum(active)
  norm, products = unit_products(gramian)
  squared = norm * norm
  distances = jnp.maximum(squared[:, None] + squared[None, :] - 2.0 * products, 0.0)
  # Two gradients that are each other's nearest may have equal scores. Symmetry makes
  # them equal to the last digit, so that rounding does not decide which is selected.
  distances = 0.5 * (distances + distances.T)
  others = active[None, :] & ~jnp.eye(size, dtype=bool)
  ascending = jnp.sort(jnp.where(others, distances, jnp.inf), axis=1)
  # At least one neighbour, unless a single task is active.
  neighbours = jnp.maximum(number - num_byzantine - 2, jnp.minimum(number - 1, 1))
  nearest = jnp.arange(size)[None, :] < neighbours
  scores = jnp.sum(jnp.where(nearest, ascending, 0.0), axis=1)
  order = jnp.argsort(jnp.where(active, scores, jnp.inf))
  selected = jnp.zeros(size, bool).at[order[:num_selected]].set(True)
  return uniform_weights(selected & active, gramian.dtype)
