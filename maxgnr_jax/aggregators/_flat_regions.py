"""Flat-region multi-task learning with any aggregator."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from maxgnr_jax._checks import check_aggregator, check_state
from maxgnr_jax._stacked import check_same_shapes


class FlatRegionsState(NamedTuple):
  """State of :func:`flat_regions`.

  Attributes:
    plain: The aggregator's state for the gradients.
    flat: Its state for the flat parts.
  """

  plain: optax.OptState
  flat: optax.OptState


def flat_regions(
  aggregator: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
  """Aggregates the gradients, and what leads to flat regions, each by itself.

  Takes both from :func:`maxgnr_jax.value_and_flat_task_grads`, the flat part as
  ``flat_grads=``, and returns the sum of both aggregates. A task of which one part only
  is not finite is absent from that one.

  Args:
    aggregator: Any transformation of stacked gradients, such as ``maxgnr()``.

  Returns:
    An :class:`optax.GradientTransformationExtraArgs` with :class:`FlatRegionsState`,
    which holds ``weights`` twice: ``opt_state[0].plain.weights`` in a chain.

  Raises:
    TypeError: if ``aggregator`` is no transformation, or ``update`` is called without
      ``flat_grads``.
    ValueError: if these have other shapes than the gradients; else what the aggregator
      raises.

  Example:
    >>> import jax.numpy as jnp
    >>> from maxgnr_jax import value_and_flat_task_grads
    >>> from maxgnr_jax.aggregators import flat_regions, mgda
    >>> def losses(params):
    ...   return jnp.sum((params - 1.0) ** 2), jnp.sum((params + 1.0) ** 2)
    >>> params = jnp.array([3.0, 0.0])
    >>> tx = flat_regions(mgda())
    >>> _, (grads, flat_grads) = value_and_flat_task_grads(losses)(params)
    >>> updates, _ = tx.update(grads, tx.init(params), params, flat_grads=flat_grads)
    >>> [f"{update:.2f}" for update in updates]
    ['4.09', '-2.01']

  References:
    Phan et al., Beyond Losses Reweighting: Empowering Multi-Task Learning via the
    Generalization Perspective, 2022. Their heads take their own task's gradient; here,
    as with every aggregator, they take their weighted one.
  """
  check_aggregator(aggregator)
  inner = optax.with_extra_args_support(aggregator)

  def init(params: optax.Params) -> FlatRegionsState:
    return FlatRegionsState(inner.init(params), inner.init(params))

  def update(
    grads: optax.Updates,
    state: FlatRegionsState,
    params: optax.Params | None = None,
    *,
    flat_grads: optax.Updates | None = None,
    **extra_args: Any,
  ) -> tuple[optax.Updates, FlatRegionsState]:
    check_state(state, FlatRegionsState)
    if flat_grads is None:
      raise TypeError(
        "`flat_regions` needs `flat_grads`: pass `tx.update(grads, opt_state, params, "
        "flat_grads=flat_grads)` with the second part of the gradients that "
        "`value_and_flat_task_grads` returns."
      )
    check_same_shapes(grads, flat_grads, "flat_grads")
    plain, plain_state = inner.update(grads, state.plain, params, **extra_args)
    flat, flat_state = inner.update(flat_grads, state.flat, params, **extra_args)
    updates = jax.tree.map(jnp.add, plain, flat)
    return updates, FlatRegionsState(plain_state, flat_state)

  return optax.GradientTransformationExtraArgs(init, update)
