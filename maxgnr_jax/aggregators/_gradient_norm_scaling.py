"""Gradient-norm scaling, which gives all gradients the same length."""

import jax
import jax.numpy as jnp
import optax

from maxgnr_jax._linalg import inverse_norms, only_active, square_root
from maxgnr_jax._stacked import Labels
from maxgnr_jax.aggregators._base import Shared
from maxgnr_jax.aggregators._gramian import gramian_rule
from maxgnr_jax.aggregators._reuse import reuses_steps


@reuses_steps
def gradient_norm_scaling(
  *,
  num_tasks: int | None = None,
  shared: Shared = None,
  groups: Labels = None,
  sketch: int | bool | None = None,
  smoothing: jax.typing.ArrayLike | None = None,
  unshared: str = "weighted",
  rescale: str | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Sums the gradients after scaling each to the length of their sum.

  The weights are ``w_k = ‖Σ_j g_j‖ / ‖g_k‖``. They have the same ratios as the weights
  of MaxGNR for uncorrelated noises, but with the norm of this step's gradient in place
  of that of the momentum.

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
      True, or an odd number of buckets from 3 to 65,535. Each weight has an error of
      about ``sqrt(1 / (2 sketch))``, 0.6 %, which matters more where the weighted
      gradients nearly cancel. Default: exact measurement.
    smoothing: Decay rate, in [0, 1), of an average of the weights over the steps, as in
      :func:`~maxgnr_jax.maxgnr`. Default: no average.
    unshared: "weighted" or "own", the gradients of parameters outside of ``shared``, as
      in :func:`~maxgnr_jax.maxgnr`.
    rescale: "mean" makes the update as long as the mean of the gradients, as in
      :func:`~maxgnr_jax.maxgnr`. Default: as long as the weights make it.

  Returns:
    An :class:`optax.GradientTransformationExtraArgs` with :class:`AggregatorState`.

  Raises:
    ValueError: for ``num_tasks`` < 1; at the trace of ``update``, for gradients that
      are not stacked or of another number of tasks.
    TypeError: for integer or complex parameters or gradients.

  Example:
    >>> import jax.numpy as jnp
    >>> from maxgnr_jax.aggregators import gradient_norm_scaling_weights
    >>> weights = gradient_norm_scaling_weights(jnp.array([[9.0, 0.0], [0.0, 1.0]]))
    >>> [f"{weight:.2f}" for weight in weights]
    ['1.05', '3.16']

  References:
    Guo et al., Revisit the Imbalance Optimization in Multi-task Learning: An
    Experimental Analysis, 2025, Section V-F ("AvgNorm"). The formula is taken from
    other authors' notes on the paper, because its text was not available to us.
    Wang et al., An Expert's Guide to Training Physics-informed Neural Networks, 2023:
    their code, jaxpi, has weights of the same ratios and averages them, as
    ``smoothing`` does.
  """
  return gramian_rule(
    gradient_norm_scaling_weights,
    num_tasks=num_tasks,
    shared=shared,
    smoothing=smoothing,
    unshared=unshared,
    rescale=rescale,
    groups=groups,
    sketch=sketch,
  )


def gradient_norm_scaling_weights(
  gramian: jax.Array, active: jax.Array | bool = True
) -> jax.Array:
  """Returns the weights of :func:`gradient_norm_scaling` for a Gramian.

  Args:
    gramian: [K, K], ``⟨g_i, g_j⟩``.
    active: [K], bool: the tasks to combine; the weights of others are 0.

  Returns:
    [K], non-negative; 0 for a task without gradient. In float32 a sum of gradients that
    cancel to less than about a hundredth of their norms is only known to be small.
  """
  _, gramian = only_active(active, gramian)
  return square_root(jnp.sum(gramian)) * inverse_norms(gramian)
