"""Scaling every loss by its gradient's norm."""

import jax
import jax.numpy as jnp
import optax

from maxgnr_jax._linalg import inverse_norms, only_active
from maxgnr_jax._stacked import Labels
from maxgnr_jax.aggregators._base import Shared
from maxgnr_jax.aggregators._gramian import gramian_rule


def gradient_norm_scaling(
  *, num_tasks: int | None = None, shared: Shared = None, groups: Labels = None
) -> optax.GradientTransformationExtraArgs:
  """The sum of the gradients after each is scaled to the length of their sum.

  ``w_k = ‖Σ_j g_j‖ / ‖g_k‖``: in direction what MaxGNR does where the tasks' noises are
  uncorrelated, but with this step's gradient in place of a momentum.

  Args:
    num_tasks: K, at least 1. By default it is taken from the first gradients, which
      changes the shapes of the state at the first step.
    shared: Selects the trunk, where gradients are measured: a pytree of bools like the
      parameters (or a prefix of it), or a function from the parameters to one. Default:
      all parameters.
    groups: Parameters that get task weights of their own: "layer", "parameter", a
      pytree of labels like the parameters or a prefix of it, or a function from the
      parameters to one. Default: the same weights for all.

  Returns:
    An :class:`optax.GradientTransformationExtraArgs` with :class:`AggregatorState`.

  Example:
    >>> import jax.numpy as jnp
    >>> from maxgnr_jax.aggregators import gradient_norm_scaling_weights
    >>> weights = gradient_norm_scaling_weights(jnp.array([[9.0, 0.0], [0.0, 1.0]]))
    >>> [f"{weight:.2f}" for weight in weights]
    ['1.05', '3.16']

  References:
    Guo et al., Revisit the Imbalance Optimization in Multi-task Learning: An
    Experimental Analysis, 2025, Section V-F ("AvgNorm"), as notes of its readers give
    it: the paper's own text was not at hand.
  """
  return gramian_rule(
    gradient_norm_scaling_weights, num_tasks=num_tasks, shared=shared, groups=groups
  )


def gradient_norm_scaling_weights(
  gramian: jax.Array, active: jax.Array | bool = True
) -> jax.Array:
  """The weights of :func:`gradient_norm_scaling` for inner products [K, K].

  Args:
    gramian: [K, K], ``⟨g_i, g_j⟩``.
    active: [K], bool: the tasks to combine; the weights of others are 0.

  Returns:
    [K], non-negative; 0 for a task without gradient.
  """
  _, gramian = only_active(active, gramian)
  return jnp.sqrt(jnp.maximum(jnp.sum(gramian), 0.0)) * inverse_norms(gramian)
