"""CAGrad, conflict-averse gradient descent."""

import jax
import jax.numpy as jnp
import optax

from maxgnr_jax._checks import check_fraction
from maxgnr_jax._linalg import (
  matvec,
  minimise_on_simplex,
  only_active,
  quadratic_form,
  rounding,
  uniform_weights,
  unit_products,
)
from maxgnr_jax._stacked import Labels
from maxgnr_jax.aggregators._base import Shared
from maxgnr_jax.aggregators._gramian import gramian_rule


def cagrad(
  c: jax.typing.ArrayLike = 0.5,
  *,
  num_tasks: int | None = None,
  shared: Shared = None,
  groups: Labels = None,
) -> optax.GradientTransformationExtraArgs:
  """The best update for the task that gains least, near the mean of the gradients.

  It maximises the smallest ``⟨g_k, d⟩`` over all d with ``‖d - g_0‖ ≤ c ‖g_0‖``, where
  ``g_0`` is the mean gradient. As c < 1, the mean loss still decreases.

  Args:
    c: Radius in units of the mean gradient's norm, in [0, 1); 0 is the mean itself.
      The authors use 0.4 to 0.6. Their code also divides the update by 1 + c², which
      the paper does not.
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

  Raises:
    ValueError: for ``c`` outside [0, 1).

  Example:
    >>> import jax.numpy as jnp
    >>> from maxgnr_jax.aggregators import cagrad_weights
    >>> weights = cagrad_weights(jnp.array([[4.0, 0.0], [0.0, 1.0]]), c=0.5)
    >>> [f"{weight:.2f}" for weight in weights]
    ['0.50', '1.06']

  References:
    Liu et al., Conflict-Averse Gradient Descent for Multi-task Learning, NeurIPS 2021,
    Algorithm 1.
  """
  check_fraction("c", c)
  return gramian_rule(
    lambda gramian, active: cagrad_weights(gramian, c, active),
    num_tasks=num_tasks,
    shared=shared,
    groups=groups,
  )


def cagrad_weights(
  gramian: jax.Array, c: jax.typing.ArrayLike, active: jax.Array | bool = True
) -> jax.Array:
  """The weights of :func:`cagrad` for inner products [K, K].

  The dual problem is ``min ⟨g_w, g_0⟩ + c ‖g_0‖ ‖g_w‖`` over weights w of the simplex,
  where ``g_w = Σ w_k g_k``; then ``d = g_0 + c ‖g_0‖ g_w / ‖g_w‖``. It is solved to a
  relative duality gap of 1e-6 or what float32 allows.

  Args:
    gramian: [K, K], ``⟨g_i, g_j⟩``.
    c: In [0, 1).
    active: [K], bool: the tasks to combine; the weights of others are 0.

  Returns:
    [K], each at least 1/K, where K is the number of tasks that are active.
  """
  active, gramian = only_active(active, gramian)
  dtype = gramian.dtype
  norm, products = unit_products(gramian)
  # So that no length is 0 where gradients cancel: there it would have no derivative,
  # and with much less than 1e-8 none that Newton's method could follow.
  ridged = products + max(rounding(dtype), 1e-8) * jnp.diag(norm * norm)
  mean = uniform_weights(active, dtype)
  with_mean = matvec(products, mean)
  radius = jnp.asarray(c, dtype) * jnp.sqrt(
    jnp.maximum(quadratic_form(products, mean), 0.0)
  )

  def length_of(w):
    squared = quadratic_form(ridged, w)
    return jnp.sqrt(jnp.where(squared > 0, squared, 1.0))

  def derivatives(w):
    length = length_of(w)
    unit = matvec(ridged, w) / length
    gradient = with_mean + radius * unit
    return gradient, radius / length * (ridged - unit[:, None] * unit[None, :])

  w = minimise_on_simplex(derivatives, active, dtype, tolerance=rounding(dtype))
  return mean + radius / length_of(w) * w
