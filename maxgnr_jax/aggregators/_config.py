"""ConFIG, conflict-free updates."""

import functools

import jax
import jax.numpy as jnp
import optax

from maxgnr_jax._linalg import (
  cosines,
  equal_cosines,
  inverse_norms,
  matvec,
  norms,
  only_active,
  quadratic_form,
  unit_largest,
)
from maxgnr_jax._stacked import Labels
from maxgnr_jax.aggregators._base import Shared
from maxgnr_jax.aggregators._gramian import gramian_rule
from maxgnr_jax.aggregators._preferences import (
  Preferences,
  check_preferences,
  preferred_weights,
)
from maxgnr_jax.aggregators._reuse import reuses_steps


@reuses_steps
def config(
  *,
  preferences: Preferences = None,
  num_tasks: int | None = None,
  shared: Shared = None,
  groups: Labels = None,
  sketch: int | bool | None = None,
  smoothing: jax.typing.ArrayLike | None = None,
  unshared: str = "weighted",
  rescale: str | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Takes the direction that makes the same angle with every gradient.

  The update is as long as the sum of the gradients' projections on that direction, so
  that it shrinks where tasks disagree. :func:`imtl_g` takes the same direction, but
  sets the length by weights that sum to 1.

  Args:
    preferences: [K], non-negative and not all 0: the ratios of the cosines between the
      update and the gradients. Default: equal ones.
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
    ValueError: for ``num_tasks`` < 1 and invalid ``preferences``; at the trace of
      ``update``, for gradients that are not stacked or of another number of tasks, and
      for ``preferences`` of another number of tasks.
    TypeError: for integer or complex parameters or gradients.

  Example:
    >>> import jax.numpy as jnp
    >>> from maxgnr_jax.aggregators import config_weights
    >>> weights = config_weights(jnp.array([[4.0, 0.0], [0.0, 1.0]]))
    >>> [f"{weight:.2f}" for weight in weights]
    ['0.75', '1.50']

  References:
    Liu et al., ConFIG: Towards Conflict-free Training of Physics Informed Neural
    Networks, ICLR 2025, Eq. 2 and 3.
  """
  check_preferences(preferences)
  return gramian_rule(
    functools.partial(config_weights, preferences=preferences),
    num_tasks=num_tasks,
    shared=shared,
    smoothing=smoothing,
    unshared=unshared,
    rescale=rescale,
    groups=groups,
    sketch=sketch,
  )


def config_weights(
  gramian: jax.Array,
  active: jax.Array | bool = True,
  *,
  preferences: Preferences = None,
) -> jax.Array:
  """Returns the weights of :func:`config` for a Gramian.

  With the cosines C between the gradients, preferences p and ``x = C⁺ p``, the
  direction is ``u = Σ x_k g_k / ‖g_k‖``, of squared length ``xᵀ C x``. The update is
  ``Σ_k ⟨g_k, u⟩ u / ‖u‖²``.

  Args:
    gramian: [K, K], ``⟨g_i, g_j⟩``.
    active: [K], bool: the tasks to combine; the weights of others are 0.
    preferences: [K], non-negative; equal by default.

  Returns:
    [K]; 0 for a task without gradient. All are 0 if no such direction exists.
  """
  active, gramian = only_active(active, gramian)
  cosine, inverse = cosines(gramian), inverse_norms(gramian)
  ratios = None
  if preferences is not None:
    ratios = unit_largest(preferred_weights(preferences, active, gramian.dtype))
  x = equal_cosines(cosine, active, ratios)
  squared = quadratic_form(cosine, x)
  # If the gradients cancel, `squared` is rounding error and there is no direction.
  exists = squared > 1e-6 * jnp.sum(jnp.abs(x)) ** 2
  projections = jnp.vdot(norms(gramian), matvec(cosine, x))
  scale = jnp.where(exists, projections / jnp.where(exists, squared, 1.0), 0.0)
  # `scale` and the largest inverse norm may be huge and tiny: multiply them first.
  largest = jax.lax.stop_gradient(jnp.max(inverse))  # as in `unit_largest`
  return scale * largest * x * unit_largest(inverse)
