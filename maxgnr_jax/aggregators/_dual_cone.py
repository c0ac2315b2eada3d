"""UPGrad and DualProj, which project on the dual cone of the gradients."""

import functools

import jax
import jax.numpy as jnp
import optax

from maxgnr_jax._linalg import (
  cosines,
  inverse_norms,
  minimise_above_exactly,
  only_active,
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
def upgrad(
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
  """Projects each gradient so that it conflicts with no other, then takes their mean.

  Each task's gradient is projected on the dual cone, which holds the vectors with a
  non-negative product with every gradient. No task is sacrificed to the mean.

  Args:
    preferences: [K], non-negative and not all 0: the weights of the projected gradients
      in the update. Active tasks share the total. A task of preference 0 is not pursued
      but must not be hurt. Default: 1/K for each, where K is the number of active
      tasks.
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
    >>> from maxgnr_jax.aggregators import upgrad_weights
    >>> weights = upgrad_weights(jnp.array([[1.0, -0.5], [-0.5, 1.0]]))
    >>> [f"{weight:.2f}" for weight in weights]
    ['0.75', '0.75']

  References:
    Quinton and Rey, Jacobian Descent for Multi-Objective Optimization, 2024, UPGrad.
  """
  check_preferences(preferences)
  return gramian_rule(
    functools.partial(upgrad_weights, preferences=preferences),
    num_tasks=num_tasks,
    shared=shared,
    smoothing=smoothing,
    unshared=unshared,
    rescale=rescale,
    groups=groups,
    sketch=sketch,
  )


def upgrad_weights(
  gramian: jax.Array,
  active: jax.Array | bool = True,
  *,
  preferences: Preferences = None,
) -> jax.Array:
  """Returns the weights of :func:`upgrad` for a Gramian.

  Args:
    gramian: [K, K], ``⟨g_i, g_j⟩``.
    active: [K], bool: the tasks to combine; the weights of others are 0.
    preferences: [K], non-negative; 1/K for each active task by default.

  Returns:
    [K], at least the preference of each active task. Their sum is not fixed. The
    problem is solved up to rounding, also where gradients are linearly dependent.
    Derivatives hold fixed which weights are at their lower bounds.
  """
  active, gramian = only_active(active, gramian)
  shares = preferred_weights(preferences, active, gramian.dtype)
  return jnp.sum(_project(jnp.diag(shares), gramian), axis=0)


@reuses_steps
def dualproj(
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
  """Projects the mean of the gradients so that it conflicts with no task's gradient.

  The update is the vector nearest to the mean that has a non-negative product with
  every gradient.

  Args:
    preferences: [K], non-negative and not all 0: the weights of the gradients in the
      sum that is projected. Active tasks share the total. A task of preference 0 is not
      pursued but must not be hurt. Default: 1/K for each, where K is the number of
      active tasks.
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
    >>> from maxgnr_jax.aggregators import dualproj_weights
    >>> weights = dualproj_weights(jnp.array([[4.0, -2.0], [-2.0, 1.5]]))
    >>> [f"{weight:.2f}" for weight in weights]
    ['0.50', '0.67']

  References:
    Lopez-Paz and Ranzato, Gradient Episodic Memory for Continual Learning, NeurIPS
    2017, Eq. 11.
  """
  check_preferences(preferences)
  return gramian_rule(
    functools.partial(dualproj_weights, preferences=preferences),
    num_tasks=num_tasks,
    shared=shared,
    smoothing=smoothing,
    unshared=unshared,
    rescale=rescale,
    groups=groups,
    sketch=sketch,
  )


def dualproj_weights(
  gramian: jax.Array,
  active: jax.Array | bool = True,
  *,
  preferences: Preferences = None,
) -> jax.Array:
  """Returns the weights of :func:`dualproj` for a Gramian.

  Args:
    gramian: [K, K], ``⟨g_i, g_j⟩``.
    active: [K], bool: the tasks to combine; the weights of others are 0.
    preferences: [K], non-negative; 1/K for each active task by default.

  Returns:
    [K], at least the preference of each active task. Their sum is not fixed. The
    problem is solved up to rounding, also where gradients are linearly dependent.
    Derivatives hold fixed which weights are at their lower bounds.
  """
  active, gramian = only_active(active, gramian)
  shares = preferred_weights(preferences, active, gramian.dtype)
  return _project(shares[None], gramian)[0]


def _project(preferences: jax.Array, gramian: jax.Array) -> jax.Array:
  """Projects each ``Σ p_k g_k`` on the dual cone; returns the weights of the results.

  They minimise ``wᵀ G w`` over ``w ≥ p``.

  Args:
    preferences: [B, K], p for each of B sums.
    gramian: [K, K], G.

  Returns:
    [B, K].
  """
  inverse = inverse_norms(gramian)[None]
  has_gradient = inverse > 0
  norm = jnp.where(has_gradient, 1.0 / jnp.where(has_gradient, inverse, 1.0), 0.0)
  bound = preferences * norm
  scale = jnp.max(bound, axis=1, keepdims=True)
  scale = jnp.where(scale > 0, scale, 1.0)
  v = scale * minimise_above_exactly(cosines(gramian), bound / scale)
  return jnp.where(has_gradient, v * inverse, preferences)
