"""NTKMTL, task weights from the neural tangent kernel."""

import jax
import jax.numpy as jnp
import optax

from maxgnr_jax._checks import check_not_negative
from maxgnr_jax._linalg import only_active
from maxgnr_jax._stacked import Labels
from maxgnr_jax.aggregators._base import Shared
from maxgnr_jax.aggregators._gramian import gramian_rule
from maxgnr_jax.aggregators._reuse import reuses_steps


@reuses_steps
def ntkmtl(
  exponent: jax.typing.ArrayLike = 0.5,
  *,
  num_tasks: int | None = None,
  shared: Shared = None,
  groups: Labels = None,
  sketch: int | bool | None = None,
  smoothing: jax.typing.ArrayLike | None = None,
  unshared: str = "weighted",
  rescale: str | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Weights tasks by a power of how slowly their outputs follow the gradient.

  The neural tangent kernel of a task tells how fast its outputs change in training.
  For the gradient of a whole batch it is a single number, ``‖g_k‖²``, and the weights
  are ``w_k = (Σ_j ‖g_j‖² / ‖g_k‖²)^q``. With the default q = ½ every weighted gradient
  has the length ``(Σ_j ‖g_j‖²)^½``, so that the update has the direction of
  :func:`gradient_norm_scaling`.

  Args:
    exponent: q, at least 0; 0 sums the gradients up. The authors take 0.5 and recommend
      to try larger ones, such as 0.75, under which short gradients count for more.
    num_tasks: K, at least 1. By default it is taken from the first gradients, which
      changes the shapes of the state at the first step.
    shared: Selects the trunk, where gradients are measured: a pytree of bools like the
      parameters (or a prefix of it), or a function from the parameters to one. Default:
      all parameters.
    groups: Parameters that get task weights of their own: "layer", "parameter", a
      pytree of labels like the parameters or a prefix of it, or a function from the
      parameters to one. Default: the same weights for all.
    sketch: Measures sketches of the gradients, as :func:`gramian_method` explains:
      True, or an odd number of buckets from 3 to 65,535. Each weight has a
      relative error of about ``q sqrt(2 / sketch)``, 0.6 %, which matters more where
      the weighted gradients nearly cancel. Default: exact measurement.
    smoothing: Decay rate, in [0, 1), of an average of the weights over the steps, as in
      :func:`~maxgnr_jax.maxgnr`. Default: no average.
    unshared: "weighted" or "own", the gradients of parameters outside of ``shared``, as
      in :func:`~maxgnr_jax.maxgnr`.
    rescale: "mean" makes the update as long as the mean of the gradients, as in
      :func:`~maxgnr_jax.maxgnr`. Default: as long as the weights make it.

  Returns:
    An :class:`optax.GradientTransformationExtraArgs` with :class:`AggregatorState`.

  Raises:
    ValueError: for ``exponent`` < 0 or ``num_tasks`` < 1; at the trace of ``update``,
      for gradients that are not stacked or of another number of tasks.
    TypeError: for integer or complex parameters or gradients.

  Example:
    >>> import jax.numpy as jnp
    >>> from maxgnr_jax.aggregators import ntkmtl_weights
    >>> weights = ntkmtl_weights(jnp.array([[16.0, 0.0], [0.0, 9.0]]))  # norms 4 and 3
    >>> [f"{weight:.2f}" for weight in weights]
    ['1.25', '1.67']

  References:
    Qin et al., NTKMTL: Mitigating Task Imbalance in Multi-Task Learning from Neural
    Tangent Kernel Perspective, NeurIPS 2025, with a kernel of one sample (n = 1), as in
    the authors' code. That code multiplies the update by K and then clips its norm to
    1, which is left to the optimiser here.
  """
  check_not_negative("exponent", exponent)
  return gramian_rule(
    lambda gramian, active: ntkmtl_weights(gramian, active, exponent=exponent),
    num_tasks=num_tasks,
    shared=shared,
    smoothing=smoothing,
    unshared=unshared,
    rescale=rescale,
    groups=groups,
    sketch=sketch,
  )


def ntkmtl_weights(
  gramian: jax.Array,
  active: jax.Array | bool = True,
  *,
  exponent: jax.typing.ArrayLike = 0.5,
) -> jax.Array:
  """Returns the weights of :func:`ntkmtl` for a Gramian.

  Args:
    gramian: [K, K], ``⟨g_i, g_j⟩``.
    active: [K], bool: the tasks to combine; the weights of others are 0.
    exponent: q, at least 0.

  Returns:
    [K], ``(Σ_j ‖g_j‖² / ‖g_k‖²)^q``; 0 for a task without gradient. Weights that would
    overflow are the largest number of the dtype.
  """
  _, gramian = only_active(active, gramian)
  squared = jnp.diagonal(gramian)
  positive = squared > 0
  # The quotients of squares may be outside the range of float32: take logarithms.
  logarithm = jnp.log(jnp.where(positive, squared, 1.0))
  lowest = jnp.finfo(gramian.dtype).min
  largest = jax.lax.stop_gradient(jnp.max(jnp.where(positive, logarithm, lowest)))
  largest = jnp.where(jnp.any(positive), largest, 0.0)
  share = jnp.exp(jnp.where(positive, logarithm - largest, 0.0))
  total = jnp.sum(jnp.where(positive, share, 0.0))
  log_total = largest + jnp.log(jnp.where(total > 0, total, 1.0))
  power = jnp.asarray(exponent, gramian.dtype) * (log_total - logarithm)
  power = jnp.minimum(power, jnp.log(jnp.finfo(gramian.dtype).max) * (1 - 1e-6))
  return jnp.where(positive, jnp.exp(power), 0.0)
