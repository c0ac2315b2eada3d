"""IMTL-G, impartial multi-task learning by gradients."""

import jax
import jax.numpy as jnp
import optax

from maxgnr_jax._linalg import (
  cosines,
  equal_cosines,
  inverse_norms,
  only_active,
  unit_largest,
)
from maxgnr_jax._stacked import Labels
from maxgnr_jax.aggregators._base import Shared
from maxgnr_jax.aggregators._gramian import gramian_rule
from maxgnr_jax.aggregators._reuse import reuses_steps


@reuses_steps
def imtl_g(
  *,
  num_tasks: int | None = None,
  shared: Shared = None,
  groups: Labels = None,
  sketch: int | bool | None = None,
  smoothing: jax.typing.ArrayLike | None = None,
  unshared: str = "weighted",
  rescale: str | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Combines the gradients so that the update has the same projection on each of them.

  All directions count equally, whatever the lengths of the gradients. Weights may be
  negative; they sum to 1.

  Args:
    num_tasks: K, at least 1. By default it is taken from the first gradients, which
      changes the shapes of the state at the first step.
    shared: Selects the trunk, where gradients are measured: a pytree of bools like the
      parameters (or a prefix of it), or a function from the parameters to one. Default:
      all parameters.
    groups: Parameters that get task weights of their own: "layer", "parameter", a
      pytree of labels like the parameters or a prefix of it, or a function from the
      parameters to one. Default: the same weights for all.
    sketch: Measures sketches of the gradients, as :func:`gramian_method` explains:
      True, or an odd number of buckets from 3 to 65,535. Default: exact measurement.
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
    >>> from maxgnr_jax.aggregators import imtl_g_weights
    >>> weights = imtl_g_weights(jnp.array([[4.0, 0.0], [0.0, 1.0]]))
    >>> [f"{weight:.2f}" for weight in weights]
    ['0.33', '0.67']

  References:
    Liu et al., Towards Impartial Multi-task Learning, ICLR 2021, Section 3.1.
  """
  return gramian_rule(
    imtl_g_weights,
    num_tasks=num_tasks,
    shared=shared,
    smoothing=smoothing,
    unshared=unshared,
    rescale=rescale,
    groups=groups,
    sketch=sketch,
  )


def imtl_g_weights(gramian: jax.Array, active: jax.Array | bool = True) -> jax.Array:
  """Returns the weights of :func:`imtl_g` for a Gramian.

  With the cosines C between the gradients, ``w_k ∝ (C⁺ 1)_k / ‖g_k‖``. The paper has
  the inverse; the pseudo-inverse also works for linearly dependent gradients.

  Args:
    gramian: [K, K], ``⟨g_i, g_j⟩``.
    active: [K], bool: the tasks to combine; the weights of others are 0.

  Returns:
    [K], of sum 1; 0 for a task without gradient. All are 0 if no such combination
    exists.
  """
  active, gramian = only_active(active, gramian)
  unit = unit_largest(inverse_norms(gramian))
  weights = unit * equal_cosines(cosines(gramian), active)
  total = jnp.sum(weights)
  solvable = jnp.abs(total) > 1e-6 * jnp.sum(jnp.abs(weights))
  return jnp.where(solvable, weights / jnp.where(solvable, total, 1.0), 0.0)
