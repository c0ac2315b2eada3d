"""Krum, selection of the gradients that others agree with."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from maxgnr_jax._checks import check_integer
from maxgnr_jax.baselines._gramian import cosines, gramian_method, norms, unit_largest


def krum(
  num_byzantine: int = 0,
  num_selected: int = 1,
  *,
  num_tasks: int | None = None,
  shared: Any = None,
) -> optax.GradientTransformationExtraArgs:
  """The mean of the gradients that have the nearest neighbours.

  From federated learning, where some of K workers may send anything. A gradient's
  score is the sum of its squared distances to the nearest ``K - num_byzantine - 2``
  others; those of the lowest scores are chosen.

  Args:
    num_byzantine: How many gradients may be arbitrary, at least 0 and at most K - 3.
    num_selected: How many are chosen (Multi-Krum), at least 1 and at most K.
    num_tasks: As in :func:`gramian_method`.
    shared: Where inner products are measured, likewise.

  Returns:
    An :class:`optax.GradientTransformationExtraArgs` with :class:`BaselineState`.

  Raises:
    ValueError: for numbers out of range; at the trace of ``update`` for too few tasks.
    TypeError: for numbers that are traced.

  Example:
    >>> import jax.numpy as jnp
    >>> from maxgnr_jax.baselines import krum
    >>> tx = krum(num_byzantine=1)
    >>> grads = jnp.array([[1.0], [1.1], [1.3], [-50.0]])
    >>> updates, _ = tx.update(grads, tx.init(jnp.zeros(1)))
    >>> f"{updates[0]:.1f}"
    '1.0'

  References:
    Blanchard et al., Machine Learning with Adversaries: Byzantine Tolerant Gradient
    Descent, NeurIPS 2017, Section 4. TorchJD sums distances that are not squared.
  """
  check_integer("num_byzantine", num_byzantine, 0)
  check_integer("num_selected", num_selected, 1)
  return gramian_method(
    lambda gramian: krum_weights(gramian, num_byzantine, num_selected),
    num_tasks=num_tasks,
    shared=shared,
  )


def krum_weights(
  gramian: jax.Array, num_byzantine: int = 0, num_selected: int = 1
) -> jax.Array:
  """The weights of :func:`krum` for inner products [K, K].

  Args:
    gramian: [K, K], ``⟨g_i, g_j⟩``.
    num_byzantine: At most K - 3.
    num_selected: At most K.

  Returns:
    [K], ``1 / num_selected`` for those chosen, 0 for the others.

  Raises:
    ValueError: for too few tasks.
  """
  size = len(gramian)
  if size < max(num_byzantine + 3, num_selected):
    raise ValueError(
      f"Krum needs at least `num_byzantine` + 3 and `num_selected` tasks, got {size} "
      f"tasks with num_byzantine={num_byzantine} and num_selected={num_selected}."
    )
  # Of the scaled norms, because squared distances may be out of float32's range.
  norm = unit_largest(norms(gramian))
  products = norm[:, None] * cosines(gramian) * norm[None, :]
  squared = norm * norm
  distances = jnp.maximum(squared[:, None] + squared[None, :] - 2.0 * products, 0.0)
  # The nearest two have equal scores, which rounding must not decide between.
  distances = 0.5 * (distances + distances.T)
  itself = jnp.eye(size, dtype=bool)
  ascending = jnp.sort(jnp.where(itself, jnp.inf, distances), axis=1)
  scores = jnp.sum(ascending[:, : size - num_byzantine - 2], axis=1)
  chosen = jnp.argsort(scores)[:num_selected]
  return jnp.zeros(size, gramian.dtype).at[chosen].set(1.0 / num_selected)
