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
  square_root,
  uniform_weights,
  unit_products,
)
from maxgnr_jax._stacked import Labels
from maxgnr_jax.aggregators._base import Shared
from maxgnr_jax.aggregators._gramian import gramian_rule
from maxgnr_jax.aggregators._reuse import reuses_steps


@reuses_steps
def cagrad(
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
  """Maximises the gain of the task that gains least, near the mean of the gradients.

  The update is the d with the largest ``min_k ⟨g_k, d⟩`` such that
  ``‖d - g_0‖ ≤ c ‖g_0‖``, where ``g_0`` is the mean gradient. Because c < 1, the mean
  loss still decreases.

  Args:
    c: Radius of the search in units of the mean gradient's norm, in [0, 1). With 0 the
      update is the mean gradient. The authors use 0.4 to 0.6. Their code also divides
      the update by 1 + c², which neither the paper nor this function does.
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
    ValueError: for ``c`` outside [0, 1) or ``num_tasks`` < 1; at the trace of
      ``update``, for gradients that are not stacked or of another number of tasks.
    TypeError: for integer or complex parameters or gradients.

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
    smoothing=smoothing,
    unshared=unshared,
    rescale=rescale,
    groups=groups,
    sketch=sketch,
  )


def cagrad_weights(
  gramian: jax.Array, c: jax.typing.ArrayLike, active: jax.Array | bool = True
) -> jax.Array:
  """Returns the weights of :func:`cagrad` for a Gramian.

  Solves the dual problem, ``min ⟨g_w, g_0⟩ + c ‖g_0‖ ‖g_w‖`` over weights w on the
  simplex with ``g_w = Σ w_k g_k``, to a relative duality gap of 1e-6 or what float32
  allows. The update is then ``d = g_0 + c ‖g_0‖ g_w / ‖g_w‖``.

  Args:
    gramian: [K, K], ``⟨g_i, g_j⟩``.
    c: Radius in units of the mean gradient's norm, in [0, 1).
    active: [K], bool: the tasks to combine; the weights of others are 0.

  Returns:
    [K], at least 1/K for each active task, where K is the number of active tasks. In
    float32 a mean gradient shorter than about a hundredth of the gradients' norms is
    only known to be small, and so is the radius.
  """
  active, gramian = only_active(active, gramian)
  dtype = gramian.dtype
  norm, products = unit_products(gramian)
  # A ridge keeps lengths above 0 where gradients cancel: at 0 they have no derivative.
  # Much below 1e-8 the derivative changes too fast for Newton's method.
  ridged = products + max(rounding(dtype), 1e-8) * jnp.diag(norm * norm)
  mean = uniform_weights(active, dtype)
  mean_products = matvec(products, mean)
  radius = jnp.asarray(c, dtype) * square_root(quadratic_form(products, mean))
  problem = (ridged, mean_products, radius)
  w = minimise_on_simplex(_dual_derivatives, problem, active, rounding(dtype))
  return mean + radius / _length(ridged, w) * w


def _dual_derivatives(
  w: jax.Array, problem: tuple[jax.Array, jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
  """Returns gradient and Hessian of the dual objective, ``⟨g_w, g_0⟩ + r ‖g_w‖``.

  Args:
    w: [K].
    problem: ``⟨g_i, g_j⟩`` [K, K], ``⟨g_k, g_0⟩`` [K] and r [].
  """
  products, mean_products, radius = problem
  length = _length(products, w)
  unit = matvec(products, w) / length
  gradient = mean_products + radius * unit
  return gradient, radius / length * (products - unit[:, None] * unit[None, :])


def _length(products: jax.Array, w: jax.Array) -> jax.Array:
  """Returns ``‖g_w‖``, to be divided by: 1 where it is 0."""
  squared = quadratic_form(products, w)
  return jnp.sqrt(jnp.where(squared > 0, squared, 1.0))
