"""MGDA, the multiple-gradient descent algorithm."""

import jax
import jax.numpy as jnp
import optax

from maxgnr_jax._linalg import (
  cosines,
  inverse_norms,
  minimise_above_exactly,
  only_active,
  unit_largest,
)
from maxgnr_jax._stacked import Labels
from maxgnr_jax.aggregators._base import Shared
from maxgnr_jax.aggregators._gramian import gramian_rule
from maxgnr_jax.aggregators._reuse import reuses_steps


@reuses_steps
def mgda(
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
  """Takes the shortest vector in the convex hull of the tasks' gradients.

  Where it is not zero it descends on every task, on each by the same first-order
  amount; where it is zero no direction does. The smallest gradients weigh most.

  To choose the weights in every n-th step only, as PSMGD does (Xu et al., 2024), use
  :func:`~maxgnr_jax.value_and_combined_grad` with ``refresh_every=n``.

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
    zero_gradients: "inactive" or "active": whether a task whose gradient is exactly
      zero is left out of the step, as if ``task_mask`` were False for it, or takes part
      as the method defines it: it is the shortest vector, and the update is zero.
    smoothing: Decay rate, in [0, 1), of an average of the weights over the steps, as in
      :func:`~maxgnr_jax.maxgnr`. Default: no average.
    unshared: "weighted" or "own", the gradients of parameters outside of ``shared``, as
      in :func:`~maxgnr_jax.maxgnr`.
    rescale: "mean" makes the update as long as the mean of the gradients, as in
      :func:`~maxgnr_jax.maxgnr`. Default: as long as the weights make it.

  Returns:
    An :class:`optax.GradientTransformationExtraArgs` with :class:`AggregatorState`.

  Raises:
    ValueError: for ``num_tasks`` < 1 and another value of ``zero_gradients``; at the
      trace of ``update``, for gradients that are not stacked or of another number of
      tasks.
    TypeError: for integer or complex parameters or gradients.

  Example:
    >>> import jax.numpy as jnp
    >>> from maxgnr_jax.aggregators import mgda_weights
    >>> weights = mgda_weights(jnp.array([[4.0, 0.0], [0.0, 1.0]]))
    >>> [f"{weight:.2f}" for weight in weights]
    ['0.20', '0.80']

  References:
    Désidéri, Multiple-gradient descent algorithm (MGDA) for multiobjective
    optimization, Comptes Rendus Mathématique 2012. Sener and Koltun, Multi-Task
    Learning as Multi-Objective Optimization, NeurIPS 2018, Eq. 3.
  """
  return gramian_rule(
    mgda_weights,
    num_tasks=num_tasks,
    shared=shared,
    smoothing=smoothing,
    unshared=unshared,
    rescale=rescale,
    groups=groups,
    sketch=sketch,
    zero_gradients=zero_gradients,
  )


def mgda_weights(gramian: jax.Array, active: jax.Array | bool = True) -> jax.Array:
  """Returns the weights of :func:`mgda` for a Gramian.

  At the optimum the product of the weighted sum with every gradient is at least its
  own square, ``G w ≥ wᵀ G w``, with equality where ``w_k > 0``. Divided by that square,
  these are the conditions of ``min ½ xᵀ G x - Σ x`` over ``x ≥ 0``, which is solved in
  units of the gradients' norms.

  Args:
    gramian: [K, K], ``⟨g_i, g_j⟩``.
    active: [K], bool: the tasks to combine; the weights of others are 0.

  Returns:
    Weights [K], non-negative, of sum 1. A zero gradient is itself the shortest vector,
    so that all weight is then on the tasks without gradient, and the update is zero.
  """
  active, gramian = only_active(active, gramian)
  inverse = inverse_norms(gramian)
  unit = unit_largest(inverse)
  v = minimise_above_exactly(cosines(gramian), jnp.zeros_like(unit), unit)
  weights = v * unit
  zero = active & (inverse == 0)
  weights = jnp.where(jnp.any(zero), zero.astype(weights.dtype), weights)
  total = jnp.sum(weights)
  return weights / jnp.where(total > 0, total, 1.0)
