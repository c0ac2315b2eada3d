"""RLW, random loss weighting."""

from typing import Any

import jax
import optax

from maxgnr_jax._linalg import active_softmax, remember
from maxgnr_jax.aggregators._base import (
  Choice,
  Memory,
  Method,
  Shared,
  Step,
  aggregator,
)
from maxgnr_jax.aggregators._random import key_memory, next_key
from maxgnr_jax.aggregators._reuse import reuses_steps


@reuses_steps
def random_weights(
  *,
  num_tasks: int | None = None,
  shared: Shared = None,
  key: int | jax.Array = 0,
  smoothing: jax.typing.ArrayLike | None = None,
  unshared: str = "weighted",
  rescale: str | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Draws new weights in every step, the softmax of standard normal numbers.

  This is a baseline that any other method should beat. The weights sum to 1.

  Args:
    num_tasks: K, at least 1. By default it is taken from the first gradients, which
      changes the shapes of the state at the first step.
    shared: Accepted so that methods can be exchanged by their name. The weights depend
      on no gradient, so that they are the same whatever it selects.
    key: An integer or a PRNG key, from which the weights are drawn.
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
    >>> import jax.numpy as jnp
    >>> from maxgnr_jax.aggregators import random_weights
    >>> tx = random_weights(key=1)
    >>> _, state = tx.update(jnp.eye(3), tx.init(jnp.zeros(3)))
    >>> f"{state.weights.sum():.1f}"
    '1.0'

  References:
    Lin et al., Reasonable Effectiveness of Random Weighting: A Litmus Test for
    Multi-Task Learning, TMLR 2022, with weights from the normal distribution.
  """

  def measure(step: Step, memory: Memory) -> tuple[Any, None]:
    del memory
    return step.weights, None

  def choose(last: jax.Array, active: jax.Array, memory: Memory) -> Choice:
    after, now = next_key(memory, key)
    drawn = jax.random.normal(now, last.shape, last.dtype)
    weights = active_softmax(active, drawn)
    return Choice(weights, remember(active, {"key": after}, memory))

  method = Method(
    measure, choose, key_memory(key), measures="nothing", skips_zero=False
  )
  return aggregator(
    method,
    num_tasks=num_tasks,
    shared=shared,
    smoothing=smoothing,
    unshared=unshared,
    rescale=rescale,
  )
