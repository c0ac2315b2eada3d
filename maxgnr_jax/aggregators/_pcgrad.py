"""PCGrad, projecting conflicting gradients."""

import jax
import jax.numpy as jnp
import optax

from maxgnr_jax._linalg import (
  cosines,
  inverse_norms,
  matvec,
  norms,
  only_active,
  remember,
  zero_inactive,
)
from maxgnr_jax._stacked import Labels
from maxgnr_jax.aggregators._base import Choice, Memory, Method, Shared, aggregator
from maxgnr_jax.aggregators._gramian import in_each_group, measure_gramian
from maxgnr_jax.aggregators._random import key_memory, next_key
from maxgnr_jax.aggregators._reuse import reuses_steps


@reuses_steps
def pcgrad(
  *,
  num_tasks: int | None = None,
  shared: Shared = None,
  groups: Labels = None,
  sketch: int | bool | None = None,
  key: int | jax.Array = 0,
  smoothing: jax.typing.ArrayLike | None = None,
  unshared: str = "weighted",
  rescale: str | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Sums the gradients after removing from each what conflicts with the others.

  A gradient whose product with another is negative is projected on the plane normal to
  that one. The others take their turns in random order, drawn again in every step.

  Args:
    num_tasks: K, at least 1. By default it is taken from the first gradients, which
      changes the shapes of the state at the first step.
    shared: Selects the trunk, where gradients are measured: a pytree of bools like the
      parameters (or a prefix of it), or a function from the parameters to one. Default:
      all parameters.
    groups: Parameters that get task weights of their own: "layer", "parameter", a
      pytree of labels like the parameters or a prefix of it, or a function from the
      parameters to one. All groups share the orders. Default: the same weights for all.
    sketch: Measures sketches of the gradients, as :func:`gramian_method` explains:
      True, or an odd number of buckets from 3 to 65,535. Default: exact measurement.
    key: An integer or a PRNG key, from which the orders are drawn.
    smoothing: Decay rate, in [0, 1), of an average of the weights over the steps, as in
      :func:`~maxgnr_jax.maxgnr`. Default: no average.
    unshared: "weighted" or "own", the gradients of parameters outside of ``shared``, as
      in :func:`~maxgnr_jax.maxgnr`.
    rescale: "mean" makes the update as long as the mean of the gradients, as in
      :func:`~maxgnr_jax.maxgnr`. Default: as long as the weights make it.

  Returns:
    An :class:`optax.GradientTransformationExtraArgs` with :class:`AggregatorState`,
    whose memory holds the numbers of the next step's ``key``.

  Raises:
    ValueError: for ``num_tasks`` < 1; at the trace of ``update``, for gradients that
      are not stacked or of another number of tasks.
    TypeError: for integer or complex parameters or gradients.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from maxgnr_jax.aggregators import pcgrad_weights
    >>> gramian = jnp.array([[1.0, -1.0], [-1.0, 2.0]])
    >>> [f"{weight:.2f}" for weight in pcgrad_weights(gramian, jax.random.key(0))]
    ['2.00', '1.50']

  References:
    Yu et al., Gradient Surgery for Multi-Task Learning, NeurIPS 2020, Algorithm 1. The
    authors' code goes through the tasks in a fixed order.
  """

  def choose(gramian: jax.Array, active: jax.Array, memory: Memory) -> Choice:
    after, orders = next_key(memory, key)
    weights = in_each_group(lambda g: pcgrad_weights(g, orders, active), gramian)
    return Choice(weights, remember(active, {"key": after}, memory))

  return aggregator(
    Method(measure_gramian, choose, key_memory(key), measures="gramian"),
    num_tasks=num_tasks,
    shared=shared,
    smoothing=smoothing,
    unshared=unshared,
    rescale=rescale,
    groups=groups,
    sketch=sketch,
  )


def pcgrad_weights(
  gramian: jax.Array, key: jax.Array, active: jax.Array | bool = True
) -> jax.Array:
  """Returns the weights of :func:`pcgrad` for a Gramian.

  Args:
    gramian: [K, K], ``⟨g_i, g_j⟩``.
    key: PRNG key, from which the orders are drawn.
    active: [K], bool: the tasks to combine; the weights of others are 0.

  Returns:
    [K], each at least 1.
  """
  # Zero conflicts with nothing: the turns of inactive tasks change nothing.
  active, gramian = only_active(active, gramian)
  size = len(gramian)
  cosine = cosines(gramian)

  def project(task, key):
    """Returns the projected unit gradient, as a combination of unit gradients."""

    def step(combination, other):
      product = jnp.vdot(cosine[other], combination, precision="highest")
      conflict = (product < 0) & (other != task)
      return combination.at[other].add(jnp.where(conflict, -product, 0.0)), None

    alone = (jnp.arange(size) == task).astype(gramian.dtype)
    return jax.lax.scan(step, alone, jax.random.permutation(key, size))[0]

  projected = jax.vmap(project)(jnp.arange(size), jax.random.split(key, size))
  others = projected - jnp.eye(size, dtype=gramian.dtype)
  weights = 1.0 + inverse_norms(gramian) * matvec(others.T, norms(gramian))
  return zero_inactive(active, weights)
