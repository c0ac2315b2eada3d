"""DiBS-MTL, the direction-based bargaining solution."""

import jax
import jax.numpy as jnp
import optax

from maxgnr_jax._checks import check_positive, check_whole
from maxgnr_jax._linalg import (
  cosines,
  inverse_norms,
  matvec,
  only_active,
  quadratic_form,
  square_root,
)
from maxgnr_jax._stacked import Labels
from maxgnr_jax.aggregators._base import Shared
from maxgnr_jax.aggregators._gramian import gramian_rule
from maxgnr_jax.aggregators._reuse import reuses_steps


@reuses_steps
def dibs_mtl(
  step_size: jax.typing.ArrayLike = 0.01,
  num_steps: int = 5,
  *,
  num_tasks: int | None = None,
  shared: Shared = None,
  groups: Labels = None,
  sketch: int | bool | None = None,
  smoothing: jax.typing.ArrayLike | None = None,
  unshared: str = "weighted",
  rescale: str | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Sums unit gradients, with more weight for tasks farther from where they want to be.

  Within a ball around the parameters, each task prefers the point that lies a radius
  down its own gradient. Starting at the centre, the tasks bargain for some steps:
  each pulls along its own unit gradient, in proportion to its distance from the point
  that it prefers. The weights are the pulls of all steps, divided by the norms of the
  gradients. Only directions count, so that any increasing function of a task's loss
  gives the same update.

  Args:
    step_size: Pull of a task at a distance of one radius, positive, in units of the
      radius. As long as ``step_size * num_steps`` is small, tasks keep their distances
      and the update is the sum of the unit gradients, as it is for one step.
    num_steps: Steps of the bargaining, at least 1. It ends early with the step that
      would leave the ball.
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
    ValueError: for ``step_size`` <= 0, ``num_steps`` < 1 or ``num_tasks`` < 1; at the
      trace of ``update``, for gradients that are not stacked or of another number of
      tasks.
    TypeError: for integer or complex parameters or gradients.

  Example:
    >>> import jax.numpy as jnp
    >>> from maxgnr_jax.aggregators import dibs_mtl_weights
    >>> gramian = jnp.array([[4.0, 0.0, 0.0], [0.0, 1.0, 1.0], [0.0, 1.0, 1.0]])
    >>> weights = dibs_mtl_weights(gramian, step_size=0.25, num_steps=2)
    >>> [f"{weight:.2f}" for weight in weights]  # the two agree
    ['0.24', '0.39', '0.39']

  References:
    Murthy et al., Monotonic Transformation Invariant Multi-task Learning, 2025
    (DiBS-MTL with T steps). The rule and the defaults are those of the authors' code
    for a radius of 1; their experiments set the radius to the learning rate, which the
    optimiser multiplies by here, and clip the norm of the update to 1.
  """
  check_positive("step_size", step_size)
  check_whole("num_steps", num_steps, 1)

  def rule(gramian: jax.Array, active: jax.Array) -> jax.Array:
    return dibs_mtl_weights(gramian, active, step_size=step_size, num_steps=num_steps)

  return gramian_rule(
    rule,
    num_tasks=num_tasks,
    shared=shared,
    smoothing=smoothing,
    unshared=unshared,
    rescale=rescale,
    groups=groups,
    sketch=sketch,
  )


def dibs_mtl_weights(
  gramian: jax.Array,
  active: jax.Array | bool = True,
  *,
  step_size: jax.typing.ArrayLike = 0.01,
  num_steps: int = 5,
) -> jax.Array:
  """Returns the weights of :func:`dibs_mtl` for a Gramian.

  Args:
    gramian: [K, K], ``⟨g_i, g_j⟩``.
    active: [K], bool: the tasks to combine; the weights of others are 0.
    step_size: Pull of a task at a distance of one radius, positive.
    num_steps: Steps of the bargaining, at least 1.

  Returns:
    [K], non-negative; 0 for a task without gradient.
  """
  _, gramian = only_active(active, gramian)
  cosine, inverse = cosines(gramian), inverse_norms(gramian)
  rate = jnp.asarray(step_size, gramian.dtype)

  # The place within the ball is ``-Σ x_k g_k / ‖g_k‖``, in units of the radius.
  def step(_, carry):
    x, pulls, inside = carry
    squared = 1.0 - 2.0 * matvec(cosine, x) + quadratic_form(cosine, x)
    pull = rate * square_root(squared)
    pulls += jnp.where(inside, pull, 0.0)
    inside &= quadratic_form(cosine, x + pull) <= 1.0
    return jnp.where(inside, x + pull, x), pulls, inside

  start = jnp.zeros_like(inverse)
  _, pulls, _ = jax.lax.fori_loop(0, num_steps, step, (start, start, jnp.asarray(True)))
  return pulls * inverse
