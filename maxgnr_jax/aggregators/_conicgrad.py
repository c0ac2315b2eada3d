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
  square_root,
  uniform_weights,
  unit_products,
)
from maxgnr_jax._stacked import Labels
from maxgnr_jax.aggregators._base import Shared
from maxgnr_jax.aggregators._gramian import gramian_rule
from maxgnr_jax.aggregators._reuse import reuses_steps


@reuses_steps
def conicgrad(
  c: jax.typing.ArrayLike = 0.5,
  *,
  num_tasks: int | None = None,
  shared: Shared = None,
  groups: Labels = None,
  sketch: int | bool | None = None,
  smoothing: jax.typing.ArrayLike | None = None,
  unshared: str = "weighted",
  rescale: str | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Maximises the gain of the task that gains least, in a cone around the mean.

  The update is the d with the largest ``min_k ⟨g_k, d⟩`` such that ``cos(g_0, d) ≥ c``
  and ``‖d‖ = ‖g_0‖``, where ``g_0`` is the mean gradient.

  Args:
    c: Cosine of the cone's half angle, in (0, 1). Near 1 the update is nearly the mean
      gradient. The default is ours, as the paper's own choice was not available.
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
    ValueError: for ``c`` outside (0, 1) or ``num_tasks`` < 1; at the trace of
      ``update``, for gradients that are not stacked or of another number of tasks.
    TypeError: for integer or complex parameters or gradients.

  Example:
    >>> import jax.numpy as jnp
    >>> from maxgnr_jax.aggregators import conicgrad_weights
    >>> weights = conicgrad_weights(jnp.array([[4.0, 0.0], [0.0, 1.0]]), c=0.5)
    >>> [f"{weight:.2f}" for weight in weights]
    ['0.25', '1.00']

  References:
    Hassanpour et al., Fantastic Multi-Task Gradient Updates and How to Find Them In a
    Cone, 2025, for the constraint and the objective. The paper takes one step on the
    weights of the dual problem, by a closed form that was not available; here the dual
    problem is solved.
  """
  check_range("c", c, "in (0, 1)", lambda x: 0 < x < 1)
  return gramian_rule(
    lambda gramian, active: conicgrad_weights(gramian, c, active),
    num_tasks=num_tasks,
    shared=shared,
    smoothing=smoothing,
    unshared=unshared,
    rescale=rescale,
    groups=groups,
    sketch=sketch,
  )


def conicgrad_weights(
  gramian: jax.Array, c: jax.typing.ArrayLike, active: jax.Array | bool = True
) -> jax.Array:
  """Returns the weights of :func:`conicgrad` for a Gramian.

  For weights w on the simplex let ``g_w = Σ w_k g_k``, and let h(w) be the largest
  product of ``g_w`` with a unit vector in the cone. If ``g_w`` lies inside the cone,
  h(w) is its norm; outside, h(w) is its product with the nearest direction on the
  cone's surface. The dual problem, to minimise h, is solved to a relative duality gap
  of 1e-6 or what float32 allows.

  Args:
    gramian: [K, K], ``⟨g_i, g_j⟩``.
    c: Cosine of the cone's half angle, in (0, 1).
    active: [K], bool: the tasks to combine; the weights of others are 0.

  Returns:
    [K]; all are 0 if the mean gradient is zero. In float32 a mean gradient shorter than
    about a hundredth of the gradients' norms is only known to be small.
  """
  active, gramian = only_active(active, gramian)
  dtype = gramian.dtype
  c = jnp.asarray(c, dtype)
  norm, products = unit_products(gramian)
  # A ridge keeps lengths above 0 where gradients cancel: at 0 they have no derivative.
  # Much below 1e-8 the derivative changes too fast for Newton's method.
  ridged = products + max(rounding(dtype), 1e-8) * jnp.diag(norm * norm)
  mean = uniform_weights(active, dtype)
  mean_length = square_root(quadratic_form(ridged, mean))
  exists = mean_length > 0
  # `along` holds the products of the gradients with the mean's direction, `orthogonal`
  # those between their components orthogonal to it.
  along = matvec(ridged, mean) / jnp.where(exists, mean_length, 1.0)
  orthogonal = ridged - along[:, None] * along[None, :]
  problem = (ridged, orthogonal, along, c)
  w = minimise_on_simplex(_dual_derivatives, problem, active, rounding(dtype))
  inside = _inside(w, ridged, along, c)
  # The unit vector that attains h(w), as weights of the gradients: that of `g_w` inside
  # the cone; outside, c times the mean's direction and s times one orthogonal to it.
  to_mean = jnp.where(exists, mean / jnp.where(exists, mean_length, 1.0), 0.0)
  to_side = (w - jnp.vdot(along, w) * to_mean) / _length(orthogonal, w)
  on_surface = c * to_mean + _sine(c) * to_side
  direction = jnp.where(inside, w / _length(ridged, w), on_surface)
  # If no direction in the cone helps the tasks, the orthogonal component is rounding
  # error: take the mean's direction.
  noise = 20.0 * max(rounding(dtype), 1e-8) * jnp.vdot(w, norm) ** 2
  only_rounding = ~inside & (quadratic_form(orthogonal, w) < noise)
  direction = jnp.where(only_rounding, to_mean, direction)
  return jnp.where(exists, mean_length * direction, 0.0)


def _dual_derivatives(
  w: jax.Array, problem: tuple[jax.Array, jax.Array, jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
  """Returns gradient and Hessian of h, the dual objective.

  Args:
    w: [K].
    problem: The products of the gradients [K, K], those of their components orthogonal
      to the mean [K, K], their products with the mean's direction [K], and c [].
  """
  products, orthogonal, along, c = problem
  inside = _inside(w, products, along, c)
  matrix = jnp.where(inside, products, _sine(c) * _sine(c) * orthogonal)
  length = _length(matrix, w)
  unit = matvec(matrix, w) / length
  gradient = unit + jnp.where(inside, 0.0, c) * along
  return gradient, (matrix - unit[:, None] * unit[None, :]) / length


def _inside(
  w: jax.Array, products: jax.Array, along: jax.Array, c: jax.Array
) -> jax.Array:
  """Tells whether ``g_w`` lies inside the cone, []."""
  return jnp.vdot(along, w) >= c * _length(products, w)


def _sine(c: jax.Array) -> jax.Array:
  """Returns the sine of the cone's half angle, of which c is the cosine."""
  return jnp.sqrt(1.0 - c * c)


def _length(products: jax.Array, w: jax.Array) -> jax.Array:
  """Returns ``(wᵀ P w)^½``, to be divided by: 1 where it is 0."""
  squared = quadratic_form(products, w)
  return jnp.sqrt(jnp.where(squared > 0, squared, 1.0))
