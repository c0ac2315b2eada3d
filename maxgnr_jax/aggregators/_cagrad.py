"""CAGrad, conflict-averse gradient descent."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from maxgnr_jax._checks import check_fraction
from maxgnr_jax._linalg._active import equal_shares
from maxgnr_jax._linalg._gramian import only, rounding, unit_products
from maxgnr_jax._linalg._matrix import matvec, quadratic_form
from maxgnr_jax._linalg._newton import minimise_on_simplex
from maxgnr_jax.aggregators._gramian import gramian_rule


def cagrad(
  c: jax.typing.ArrayLike = 0.5,
  *,
  num_tasks: int | None = None,
  shared: Any = None,
) -> optax.GradientTransformationExtraArgs:
  """The best update for the task that gains least, near the mean of the gradients.

  It maximises the smallest ``⟨g_k, d⟩`` over all d with ``‖d - g_0‖ ≤ c ‖g_0‖``, where
  ``g_0`` is the mean gradient. As c < 1, the mean loss still decreases.

  Args:
    c: Radius in units of the mean gradient's norm, in [0, 1); 0 is the mean itself.
      The authors use 0.4 to 0.6. Their code also divides the update by 1 + c², which
      the paper does not.
    num_tasks: As in :func:`gramian_method`.
    shared: Where inner products are measured, likewise.

  Returns:
    An :class:`optax.GradientTransformationExtraArgs` with :class:`BaselineState`.

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
    lambda gramian, present: cagrad_weights(gramian, c, present),
    num_tasks=num_tasks,
    shared=shared,
  )


def cagrad_weights(
  gramian: jax.Array, c: jax.typing.ArrayLike, present: jax.Array | bool = True
) -> jax.Array:
  """The weights of :func:`cagrad` for inner products [K, K].

  The dual problem is ``min ⟨g_w, g_0⟩ + c ‖g_0‖ ‖g_w‖`` over weights w of the simplex,
  where ``g_w = Σ w_k g_k``; then ``d = g_0 + c ‖g_0‖ g_w / ‖g_w‖``. It is solved to a
  relative duality gap of 1e-6 or what float32 allows.

  Args:
    gramian: [K, K], ``⟨g_i, g_j⟩``.
    c: In [0, 1).
    present: [K], bool: the tasks to combine; the weights of others are 0.

  Returns:
    [K], each at least 1/K, where K is the number of tasks that are present.
  """
  present, gramian = only(present, gramian)
  dtype = gramian.dtype
  norm, products = unit_products(gramian)
  # So that no length is 0 where gradients cancel: there it would have no derivative,
  # and with much less than 1e-8 none that Newton's method could follow.
  ridged = products + max(rounding(dtype), 1e-8) * jnp.diag(norm * norm)
  mean = equal_shares(present, dtype)
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

  w = minimise_on_simplex(derivatives, present, dtype, tolerance=rounding(dtype))
  return mean + radius / length_of(w) * w
