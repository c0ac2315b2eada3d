"""ConicGrad, updates in a cone around the mean gradient."""

import jax
import jax.numpy as jnp
import optax

from maxgnr_jax._checks import check_range
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


def conicgrad(
  c: jax.typing.ArrayLike = 0.5,
  *,
  num_tasks: int | None = None,
  shared: Shared = None,
  groups: Labels = None,
) -> optax.GradientTransformationExtraArgs:
  """The best update for the task that gains least, in a cone around the mean gradient.

  It maximises the smallest ``⟨g_k, d⟩`` over all d of the mean gradient's length with
  ``cos(g_0, d) ≥ c``, where ``g_0`` is the mean gradient.

  Args:
    c: Cosine of the cone's half angle, in (0, 1); near 1 only the mean is left. The
      paper's own choice was not at hand; 0.5 is ours.
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
    ValueError: for ``c`` outside (0, 1).

  Example:
    >>> import jax.numpy as jnp
    >>> from maxgnr_jax.aggregators import conicgrad_weights
    >>> weights = conicgrad_weights(jnp.array([[4.0, 0.0], [0.0, 1.0]]), c=0.5)
    >>> [f"{weight:.2f}" for weight in weights]
    ['0.25', '1.00']

  References:
    Hassanpour et al., Fantastic Multi-Task Gradient Updates and How to Find Them In a
    Cone, 2025: the constraint and the objective. The paper takes a step on the weights
    of the dual problem, by a closed form that was not at hand; here that problem is
    solved.
  """
  check_range("c", c, "in (0, 1)", lambda x: 0 < x < 1)
  return gramian_rule(
    lambda gramian, active: conicgrad_weights(gramian, c, active),
    num_tasks=num_tasks,
    shared=shared,
    groups=groups,
  )


def conicgrad_weights(
  gramian: jax.Array, c: jax.typing.ArrayLike, active: jax.Array | bool = True
) -> jax.Array:
  """The weights of :func:`conicgrad` for inner products [K, K].

  For weights w on the simplex the longest reach of an admissible d along
  ``g_w = Σ w_k g_k`` is its length inside the cone and, outside, its product with the
  nearest direction on the cone's surface. The dual problem is to find the w for which
  that is shortest, solved to a relative duality gap of 1e-6 or what float32 allows.

  Args:
    gramian: [K, K], ``⟨g_i, g_j⟩``.
    c: In (0, 1).
    active: [K], bool: the tasks to combine; the weights of others are 0.

  Returns:
    [K]; all 0 if the mean gradient is.
  """
  active, gramian = only_active(active, gramian)
  dtype = gramian.dtype
  c = jnp.asarray(c, dtype)
  s = jnp.sqrt(1.0 - c * c)
  norm, products = unit_products(gramian)
  # So that no length is 0 where gradients cancel: there it would have no derivative,
  # and with much less than 1e-8 none that Newton's method could follow.
  ridged = products + max(rounding(dtype), 1e-8) * jnp.diag(norm * norm)
  mean = uniform_weights(active, dtype)
  mean_length = jnp.sqrt(jnp.maximum(quadratic_form(ridged, mean), 0.0))
  exists = mean_length > 0
  # Products of the gradients with the mean's direction, and with each other across it.
  along = matvec(ridged, mean) / jnp.where(exists, mean_length, 1.0)
  across = ridged - along[:, None] * along[None, :]

  def root(matrix, w):
    squared = quadratic_form(matrix, w)
    return jnp.sqrt(jnp.where(squared > 0, squared, 1.0))

  def inside(w):
    return jnp.vdot(along, w) >= c * root(ridged, w)

  def derivatives(w):
    matrix = jnp.where(inside(w), ridged, s * s * across)
    length = root(matrix, w)
    unit = matvec(matrix, w) / length
    gradient = unit + jnp.where(inside(w), 0.0, c) * along
    return gradient, (matrix - unit[:, None] * unit[None, :]) / length

  w = minimise_on_simplex(derivatives, active, dtype, tolerance=rounding(dtype))
  # In terms of the gradients: w itself, or c of the mean's direction and s across it.
  to_mean = jnp.where(exists, mean / jnp.where(exists, mean_length, 1.0), 0.0)
  sideways = (w - jnp.vdot(along, w) * to_mean) / root(across, w)
  direction = jnp.where(inside(w), w / root(ridged, w), c * to_mean + s * sideways)
  # Where nothing admissible helps, the part across is rounding: not a direction.
  ridge = quadratic_form(ridged - products, w)
  sideless = ~inside(w) & (quadratic_form(across, w) < 20.0 * ridge)
  direction = jnp.where(sideless, to_mean, direction)
  return jnp.where(exists, mean_length * direction, 0.0)
