"""NGDiff, normalized gradient difference."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from maxgnr_jax._linalg import inverse_norms
from maxgnr_jax._stacked import Labels
from maxgnr_jax._task_names import check_has_no_names
from maxgnr_jax.aggregators._base import Shared
from maxgnr_jax.aggregators._constant import check_number_of
from maxgnr_jax.aggregators._gramian import gramian_rule


def ngdiff(
  signs: Sequence[float] = (1, -1),
  *,
  num_tasks: int | None = None,
  shared: Shared = None,
  groups: Labels = None,
  sketch: int | bool | None = None,
  smoothing: jax.typing.ArrayLike | None = None,
  unshared: str = "weighted",
  rescale: str | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Learns some tasks and unlearns others by the difference of their unit gradients.

  The update is ``Σ_k s_k g_k / ‖g_k‖`` with the signs s, so that its length does not
  depend on the lengths of the gradients. The paper's adaptive learning rate is not
  included: follow with an optimiser of your choice.

  Args:
    signs: [K], 1 for a task to learn (retain) and -1 for a task to unlearn (forget).
      The paper has one of each; other numbers of tasks are our extension.
    num_tasks: K. May be left out, because K is the number of ``signs``; if given, it
      must be that number.
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
    ValueError: for ``signs`` other than 1 and -1, or for a ``num_tasks`` that is not
      their number; at the trace of ``update``, for gradients that are not stacked or of
      another number of tasks.
    TypeError: for integer or complex parameters or gradients.

  Example:
    >>> import jax.numpy as jnp
    >>> from maxgnr_jax.aggregators import ngdiff
    >>> tx = ngdiff()
    >>> grads = jnp.array([[3.0, 0.0], [0.0, 0.5]])
    >>> updates, _ = tx.update(grads, tx.init(jnp.zeros(2)))
    >>> updates.tolist()
    [1.0, -1.0]

  References:
    Bu et al., Unlearning as multi-task optimization: A normalized gradient difference
    approach with an adaptive learning rate, 2024.
  """
  check_has_no_names("signs", signs)
  values = np.asarray(signs, np.float64)
  if values.ndim != 1 or not values.size or not (np.abs(values) == 1).all():
    raise ValueError(
      f"`signs` must be a vector of 1 and -1, one per task, got {signs!r}."
    )
  check_number_of("signs", values, num_tasks)

  def rule(gramian: jax.Array, active: jax.Array) -> jax.Array:
    del active
    return jnp.asarray(values, gramian.dtype) * inverse_norms(gramian)

  return gramian_rule(
    rule,
    num_tasks=values.size,
    shared=shared,
    smoothing=smoothing,
    unshared=unshared,
    rescale=rescale,
    groups=groups,
    sketch=sketch,
  )
