"""GradVac, gradient vaccine."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from maxgnr_jax._checks import check_range
from maxgnr_jax._linalg import (
  cosines,
  inverse_norms,
  matvec,
  norms,
  quadratic_form,
  remember,
  square_root,
  zero_inactive,
)
from maxgnr_jax._stacked import Labels
from maxgnr_jax.aggregators._base import Choice, Memory, Method, Shared, aggregator
from maxgnr_jax.aggregators._gramian import in_each_group, measure_gramian
from maxgnr_jax.aggregators._random import key_memory, next_key
from maxgnr_jax.aggregators._reuse import reuses_steps

# The largest target cosine: the coefficient that reaches a target grows without bound
# as the target approaches 1.
LARGEST_GOAL = 0.9999


@reuses_steps
def gradvac(
  beta: jax.typing.ArrayLike = 0.01,
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
  """Sums the gradients after raising the cosine of each pair to its running average.

  Each ordered pair of tasks has a goal, the running average of the cosine between their
  gradients. If the cosine is below the goal, a multiple of the second gradient is added
  to the first one so that the cosine reaches the goal. A gradient is compared with the
  other tasks' gradients one after another, in an order drawn at random in every step.
  With ``beta=0`` the goals stay 0 and the update is that of :func:`pcgrad`.

  Args:
    beta: Weight of a step's cosines in the running average, in [0, 1]. Libraries for
      PyTorch use 0.5.
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
    whose memory holds the numbers of the next step's ``key`` and ``goals``, [K, K] or
    [G, K, K] with groups.

  Raises:
    ValueError: for ``beta`` outside [0, 1] or ``num_tasks`` < 1; at the trace of
      ``update``, for gradients that are not stacked or of another number of tasks.
    TypeError: for integer or complex parameters or gradients.

  Example:
    >>> import jax.numpy as jnp
    >>> from maxgnr_jax.aggregators import gradvac
    >>> tx = gradvac()
    >>> grads = jnp.array([[1.0, 0.0], [-1.0, 1.0]])
    >>> updates, _ = tx.update(grads, tx.init(jnp.zeros(2)))
    >>> [f"{update:.2f}" for update in updates]
    ['0.50', '1.50']

  References:
    Wang et al., Gradient Vaccine: Investigating and Improving Multi-task Optimization
    in Massively Multilingual Models, ICLR 2021, Eq. 2 and 3, by default with the whole
    model as one group. As in LibMTL and TorchJD, a goal is moved after it was compared
    with the cosine.
  """
  check_range("beta", beta, "in [0, 1]", lambda x: 0 <= x <= 1)

  def init(params: Any, shape: tuple[int, ...], dtype: Any) -> Memory:
    goals = jnp.zeros((*shape, shape[-1]), dtype)
    return {**key_memory(key)(params, shape, dtype), "goals": goals}

  def choose(gramian: jax.Array, active: jax.Array, memory: Memory) -> Choice:
    after, orders = next_key(memory, key)

    def vaccinate(gramian, goals):
      gramian = zero_inactive(active, gramian, axes=2)
      return _vaccinate(gramian, goals, beta, orders)

    weights, goals = in_each_group(vaccinate, gramian, memory["goals"])
    after = remember(active, after, memory["key"])
    return Choice(weights, {"key": after, "goals": goals})

  return aggregator(
    Method(measure_gramian, choose, init, measures="gramian"),
    num_tasks=num_tasks,
    shared=shared,
    smoothing=smoothing,
    unshared=unshared,
    rescale=rescale,
    groups=groups,
    sketch=sketch,
  )


def _vaccinate(gramian, goals, beta, key):
  """Returns the weights [K] and the next goals [K, K].

  Args:
    gramian: [K, K], with zeros for inactive tasks.
    goals: [K, K], the target cosines.
    beta: Weight of this step's cosines in the next goals.
    key: PRNG key, from which the orders are drawn.
  """
  size, dtype = len(gramian), gramian.dtype
  cosine, inverse = cosines(gramian), inverse_norms(gramian)
  beta = jnp.asarray(beta, dtype)

  def vaccinate_task(task, key, goals):
    """Returns the changed unit gradient, as a combination of unit gradients.

    Also returns the task's next goals [K].
    """

    def step(carry, other):
      combination, goals = carry
      length = square_root(quadratic_form(cosine, combination))
      # Goals change only if both tasks have a gradient; inactive tasks have none here.
      comparable = (other != task) & (length > 0) & (inverse[other] > 0)
      divisor = jnp.where(length > 0, length, 1.0)
      current = jnp.clip(matvec(cosine[other], combination) / divisor, -1.0, 1.0)
      goal = jnp.minimum(goals[other], LARGEST_GOAL)
      sine, goal_sine = square_root(1.0 - current**2), jnp.sqrt(1.0 - goal**2)
      added = length * (goal * sine / goal_sine - current)
      added = jnp.where(comparable & (current < goal), added, 0.0)
      moved = goals[other] + beta * (current - goals[other])
      goals = goals.at[other].set(jnp.where(comparable, moved, goals[other]))
      return (combination.at[other].add(added), goals), None

    alone = (jnp.arange(size) == task).astype(dtype)
    order = jax.random.permutation(key, size)
    return jax.lax.scan(step, (alone, goals), order)[0]

  keys = jax.random.split(key, size)
  changed, goals = jax.vmap(vaccinate_task)(jnp.arange(size), keys, goals)
  others = changed - jnp.eye(size, dtype=dtype)
  return 1.0 + inverse * matvec(others.T, norms(gramian)), goals
