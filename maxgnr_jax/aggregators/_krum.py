"""Krum, selection of the gradients that others agree with."""

import jax
import jax.numpy as jnp
import optax

from maxgnr_jax._checks import check_integer
from maxgnr_jax._linalg import only_active, uniform_weights, unit_products
from maxgnr_jax._stacked import Labels
from maxgnr_jax.aggregators._base import Shared
from maxgnr_jax.aggregators._gramian import gramian_rule


def krum(
  num_byzantine: int = 0,
  num_selected: int = 1,
  *,
  num_tasks: int | None = None,
  shared: Shared = None,
  groups: Labels = None,
) -> optax.GradientTransformationExtraArgs:
  """The mean of the gradients that have the nearest neighbours.

  From federated learning, where some of K workers may send anything. A gradient's
  score is the sum of its squared distances to the nearest ``K - num_byzantine - 2``
  others; those of the lowest scores are chosen.

  K is the number of tasks that are active. In a step of fewer than
  ``num_byzantine + 3`` the nearest one alone makes the score, with no promise about
  arbitrary gradients; of fewer than ``num_selected`` all are chosen.

  Args:
    num_byzantine: How many gradients may be arbitrary, at least 0 and at most K - 3.
    num_selected: How many are chosen (Multi-Krum), at least 1 and at most K.
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
    ValueError: for numbers out of range; at the trace of ``update`` for too few tasks.
    TypeError: for numbers that are traced.

  Example:
    >>> import jax.numpy as jnp
    >>> from maxgnr_jax.aggregators import krum
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
  return gramian_rule(
    lambda gramian, active: krum_weights(gramian, num_byzantine, num_selected, active),
    num_tasks=num_tasks,
    shared=shared,
    groups=groups,
  )


def krum_weights(
  gramian: jax.Array,
  num_byzantine: int = 0,
  num_selected: int = 1,
  active: jax.Array | bool = True,
) -> jax.Array:
  """The weights of :func:`krum` for inner products [K, K].

  Args:
    gramian: [K, K], ``⟨g_i, g_j⟩``.
    num_byzantine: At most K - 3.
    num_selected: At most K.
    active: [K], bool: the tasks to choose from; they may be fewer, as :func:`krum`
      says.

  Returns:
    [K], one over their number for those chosen, 0 for the others.

  Raises:
    ValueError: for too few tasks.
  """
  size = len(gramian)
  if size < max(num_byzantine + 3, num_selected):
    raise ValueError(
      f"Krum needs at least `num_byzantine` + 3 and `num_selected` tasks, got {size} "
      f"tasks with num_byzantine={num_byzantine} and num_selected={num_selected}."
    )
  active, gramian = only_active(active, gramian)
  number = jnp.sum(active)
  norm, products = unit_products(gramian)
  squared = norm * norm
  distances = jnp.maximum(squared[:, None] + squared[None, :] - 2.0 * products, 0.0)
  # The nearest two have equal scores, which rounding must not decide between.
  distances = 0.5 * (distances + distances.T)
  others = active[None, :] & ~jnp.eye(size, dtype=bool)
  ascending = jnp.sort(jnp.where(others, distances, jnp.inf), axis=1)
  # At least one, if there is one.
  neighbours = jnp.maximum(number - num_byzantine - 2, jnp.minimum(number - 1, 1))
  nearest = jnp.arange(size)[None, :] < neighbours
  scores = jnp.sum(jnp.where(nearest, ascending, 0.0), axis=1)
  order = jnp.argsort(jnp.where(active, scores, jnp.inf))
  chosen = jnp.zeros(size, bool).at[order[:num_selected]].set(True)
  return uniform_weights(chosen & active, gramian.dtype)
