"""Flat-region multi-task learning, with any aggregator."""

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
    flat: The aggregator's state for the flat parts.
  """

  plain: optax.OptState
  flat: optax.OptState


def flat_regions(
  aggregator: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
  """Aggregates the gradients and their flat parts separately, and adds the results.

  :func:`maxgnr_jax.value_and_flat_task_grads` returns both: the gradients of the tasks,
  and for each task the flat part, the change of its gradient when the parameters are
  perturbed so as to raise its loss. Pass the flat parts to ``update`` as
  ``flat_grads=``. A task that is not finite in one of them stays active in the other.

  Args:
    aggregator: Any transformation of stacked gradients, such as ``maxgnr()``. It is
      used twice, each time with a state of its own.

  Returns:
    An :class:`optax.GradientTransformationExtraArgs` with :class:`FlatRegionsState`.
    Both parts have a state of their own: in a chain, read
    ``aggregator_state(opt_state[0].plain)`` or ``aggregator_state(opt_state[0].flat)``.

  Raises:
    ValueError: at the trace of ``update``, for ``flat_grads`` of other shapes than the
      gradients, and for whatever ``aggregator`` refuses.
    TypeError: if ``aggregator`` is not a gradient transformation, if ``update`` is
      called without ``flat_grads``, and for whatever ``aggregator`` refuses.

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
    Generalization Perspective, 2022. There each head gets the gradient of its own task;
    here, as with every aggregator, it gets the weighted gradient.
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
        "flat_grads=flat_grads)` with the `(grads, flat_grads)` that "
        "`value_and_flat_task_grads` returns."
      )
    check_same_shapes(grads, flat_grads, "flat_grads")
    plain, plain_state = inner.update(grads, state.plain, params, **extra_args)
    flat, flat_state = inner.update(flat_grads, state.flat, params, **extra_args)
    updates = jax.tree.map(jnp.add, plain, flat)
    return updates, FlatRegionsState(plain_state, flat_state)

  return optax.GradientTransformationExtraArgs(init, update)
