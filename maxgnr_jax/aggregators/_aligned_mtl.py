"""Aligned-MTL, independent component alignment."""

import functools

import jax
import jax.numpy as jnp
import optax

from maxgnr_jax._checks import check_choice
from maxgnr_jax._linalg import (
  matvec,
  num_active,
  only_active,
  principal_components,
  rounding,
  unit_largest,
  zero_inactive,
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

SCALE_MODES = ("min", "median", "rmse")


@reuses_steps
def aligned_mtl(
  *,
  preferences: Preferences = None,
  scale_mode: str = "min",
  num_tasks: int | None = None,
  shared: Shared = None,
  groups: Labels = None,
  sketch: int | bool | None = None,
  smoothing: jax.typing.ArrayLike | None = None,
  unshared: str = "weighted",
  rescale: str | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Averages the gradients after making their principal components equally long.

  The matrix of gradients is replaced by the nearest one in which all non-zero singular
  values are equal, by default to the smallest of them. Conflicts between tasks and the
  dominance of one both show in the spread of the singular values, which this removes.

  Args:
    preferences: [K], non-negative and not all 0: the weights of the aligned gradients
      in the update. Active tasks share the total. Default: 1/K for each, where K is the
      number of active tasks.
    scale_mode: The length that all components get: "min", the smallest singular value;
      "median", the median of those that are not 0 (the lower of two); "rmse", the root
      of the mean of their squares. It does not change the direction of the update.
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
    ValueError: for ``num_tasks`` < 1, invalid ``preferences`` and other values of
      ``scale_mode``; at the trace of ``update``, for gradients that are not stacked or
      of another number of tasks, and for ``preferences`` of another number of tasks.
    TypeError: for integer or complex parameters or gradients.

  Example:
    >>> import jax.numpy as jnp
    >>> from maxgnr_jax.aggregators import aligned_mtl_weights
    >>> weights = aligned_mtl_weights(jnp.array([[4.0, 0.0], [0.0, 1.0]]))
    >>> [f"{weight:.2f}" for weight in weights]
    ['0.25', '0.50']

  References:
    Senushkin et al., Independent Component Alignment for Multi-Task Learning, CVPR
    2023, Algorithm 1, scaled by the smallest singular value as in the paper. The other
    ways to scale are those of the authors' code, which TorchJD has adopted.
  """
  check_preferences(preferences)
  check_choice("scale_mode", scale_mode, SCALE_MODES)
  return gramian_rule(
    functools.partial(
      aligned_mtl_weights, preferences=preferences, scale_mode=scale_mode
    ),
    num_tasks=num_tasks,
    shared=shared,
    smoothing=smoothing,
    unshared=unshared,
    rescale=rescale,
    groups=groups,
    sketch=sketch,
  )


def aligned_mtl_weights(
  gramian: jax.Array,
  active: jax.Array | bool = True,
  *,
  preferences: Preferences = None,
  scale_mode: str = "min",
) -> jax.Array:
  """Returns the weights of :func:`aligned_mtl` for a Gramian.

  Args:
    gramian: [K, K], ``⟨g_i, g_j⟩``.
    active: [K], bool: the tasks to combine; the weights of others are 0.
    preferences: [K], non-negative; 1/K for each active task by default.
    scale_mode: "min", "median" or "rmse", as in :func:`aligned_mtl`.

  Returns:
    [K], ``B p`` with the preferences p of the active tasks and ``B = σ G^(-1/2)`` on
    the range of G, where σ is the smallest singular value or what ``scale_mode`` says.
    If every gradient is zero, the weights are p. The result is as accurate as the
    cosines between the gradients allow, however much the norms differ. Gradients count
    as linearly dependent where the cosines are so up to rounding. Derivatives keep the
    rank as it is. Where several singular values are the smallest or the median, the
    mean of their derivatives is taken.
  """
  active, gramian = only_active(active, gramian)
  preference = preferred_weights(preferences, active, gramian.dtype)
  return zero_inactive(active, _align(gramian, preference, scale_mode))


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _align(gramian: jax.Array, preference: jax.Array, scale_mode: str) -> jax.Array:
  """Returns ``σ G^(-1/2) p`` on the range of G; p if G is 0."""
  length, component = principal_components(gramian)
  shrink, _, _ = _shrink(length, scale_mode)
  aligned = matvec(component, shrink * matvec(component.T, preference))
  return jnp.where(jnp.any(length > 0), aligned, preference)


def _shrink(
  length: jax.Array, scale_mode: str
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Returns what scales the components, for their singular values σ_k.

  Args:
    length: [K], σ_k; 0 for components that are missing.
    scale_mode: "min", "median" or "rmse", which tells σ.

  Returns:
    ``σ / σ_k`` and ``1 / σ_k``, [K], 0 for missing components; and [K], what the
    relative change of each σ_k contributes to that of σ.
  """
  exists = length > 0
  inverse = jnp.where(exists, 1.0 / jnp.where(exists, length, 1.0), 0.0)
  if scale_mode == "rmse":
    squared = unit_largest(length) ** 2
    total = jnp.sum(squared)
    mean = total / num_active(exists, length.dtype)
    scale = jnp.max(length) * jnp.sqrt(jnp.where(mean > 0, mean, 1.0))
    return scale * inverse, inverse, squared / jnp.where(total > 0, total, 1.0)
  ordered = jnp.sort(jnp.where(exists, length, jnp.max(length)))
  middle = (jnp.sum(exists) - 1) // 2  # the lower of two, as in TorchJD
  scale = ordered[0 if scale_mode == "min" else jnp.maximum(middle, 0)]
  tied = exists & (jnp.abs(length - scale) <= scale * rounding(length.dtype))
  share = tied.astype(length.dtype) / num_active(tied, length.dtype)
  return scale * inverse, inverse, share


@_align.defjvp
def _align_jvp(
  scale_mode: str,
  primals: tuple[jax.Array, jax.Array],
  tangents: tuple[jax.Array, jax.Array],
) -> tuple[jax.Array, jax.Array]:
  """Differentiates by the formula of Daleckii and Krein, for a rank that stays.

  In contrast to derivatives of singular vectors it is finite where singular values are
  equal.
  """
  gramian, preference = primals
  gramian_dot, preference_dot = tangents
  length, component = principal_components(gramian)
  shrink, inverse, share = _shrink(length, scale_mode)
  weights = _align(gramian, preference, scale_mode)
  # The singular values are in units of the largest norm.
  unit = jnp.max(jnp.diagonal(gramian))
  change = 0.5 * (gramian_dot + gramian_dot.T) / jnp.where(unit > 0, unit, 1.0)
  within = jnp.linalg.multi_dot([component.T, change, component], precision="highest")
  parts = matvec(component.T, preference)
  rest = preference - matvec(component, parts)
  # The relative change of σ.
  relative = 0.5 * jnp.diagonal(within) * inverse * inverse
  scale_dot = jnp.sum(jnp.where(share > 0, share * relative, 0.0))
  # The inverse square root, between the components and towards what has none.
  sums = length[:, None] + length[None, :]
  root = shrink[:, None] * inverse[None, :] / jnp.where(sums > 0, sums, 1.0)
  cube = shrink * inverse * inverse
  from_rest = matvec(component.T, matvec(change, rest))
  to_rest = matvec(change, matvec(component, cube * parts))
  to_rest -= matvec(component, matvec(component.T, to_rest))
  aligned_dot = to_rest + matvec(
    component,
    shrink * (scale_dot * parts + matvec(component.T, preference_dot))
    + cube * from_rest
    - matvec(root * within, parts),
  )
  return weights, jnp.where(jnp.any(length > 0), aligned_dot, preference_dot)
