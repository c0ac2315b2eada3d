"""NGDiff, normalized gradient difference."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from maxgnr_jax._linalg._gramian import inverse_norms
from maxgnr_jax.aggregators._gramian import gramian_rule


def ngdiff(
  signs: Sequence[float] = (1, -1),
  *,
  shared: Any = None,
) -> optax.GradientTransformationExtraArgs:
  """The difference of unit gradients: learns one task and unlearns the other.

  Its length does not depend on that of the gradients. The paper's learning rate, which
  adapts itself, is not part of it: choose an optimiser to follow.

  Args:
    signs: [K], 1 for a task to learn (retain) and -1 for one to unlearn (forget). The
      paper has one of each; more are our extension.
    shared: Where norms are measured, as in :func:`gramian_method`.

  Returns:
    An :class:`optax.GradientTransformationExtraArgs` with :class:`BaselineState`.

  Raises:
    ValueError: for ``signs`` other than 1 and -1.

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
  values = np.asarray(signs, np.float64)
  if values.ndim != 1 or not values.size or not (np.abs(values) == 1).all():
    raise ValueError(f"`signs` must be a vector of 1 and -1, got {signs!r}.")

  def rule(gramian: jax.Array, present: jax.Array) -> jax.Array:
    del present
    return jnp.asarray(values, gramian.dtype) * inverse_norms(gramian)

  return gramian_rule(rule, num_tasks=values.size, shared=shared)
