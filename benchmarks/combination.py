"""Combines the gradients of K losses by a method of :mod:`benchmarks.methods`."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from benchmarks.methods import Method, Setting
from maxgnr_jax import (
  GradientStats,
  MaxGNRState,
  aggregator_state,
  aggregators,
  value_and_combined_grad,
  value_and_flat_task_grads,
  value_and_task_grads,
)

# From a batch to a bool for each task.
Labelled = Callable[[Any], dict[str, jax.Array]]


def task_gradients(
  task_losses: Callable[..., tuple[Any, Any, Any]],
  microbatches: int | None = None,
  flat_radius: float | None = None,
  labelled: Labelled | None = None,
) -> Callable[..., tuple[Any, dict[str, Any]]]:
  """Makes a function that takes the gradients of K losses, the same for all methods.

  Args:
    task_losses: Function of parameters, batch and more. Returns the losses and the
      tasks' key performance indicators in [0, 1], both as dicts of scalars, and
      anything else.
    microbatches: Parts into which a batch is divided. Indicators and anything else are
      then means over the parts.
    flat_radius: Radius of the perturbation at which flat gradients are taken as well;
      None for a method that takes none.
    labelled: Whether a batch has labels of each task, which becomes the ``task_mask``
      of an update. None if every batch has labels of all.

  Returns:
    A function of the same arguments to ``((losses, kpis, rest), gradients)``.
    ``gradients`` is a dict of ``grads`` and the extra arguments of an update.

  Raises:
    ValueError: if ``microbatches`` is given together with ``flat_radius`` or
      ``labelled``.
  """
  _check_parts(microbatches, labelled)
  losses_and_aux = _with_aux(task_losses)
  if flat_radius is None:
    differentiated = value_and_task_grads(
      losses_and_aux, has_aux=True, microbatches=microbatches
    )

    def gradients(*args):
      (losses, aux), grads = differentiated(*args)
      kpis, rest = _whole(aux, microbatches)
      found = {"grads": grads, "losses": losses, "kpis": kpis}
      return (losses, kpis, rest), found | _task_mask(labelled, args)

    return gradients

  if microbatches is not None:
    raise ValueError(
      "a method of flat gradients takes a batch at once: leave microbatches out"
    )
  perturbed = value_and_flat_task_grads(losses_and_aux, flat_radius, has_aux=True)

  def flat_gradients(*args):
    (losses, aux), (grads, flat_grads) = perturbed(*args)
    found = {"grads": grads, "flat_grads": flat_grads, "losses": losses}
    return (losses, *aux), found | _task_mask(labelled, args)

  return flat_gradients


class Combination(NamedTuple):
  """Pure functions that turn K losses into one gradient by a method.

  Attributes:
    init: Takes the parameters, returns the method's state.
    value_and_grad: Takes the state and the losses' arguments, returns
      ``((losses, kpis, rest), gradient, state)``.
    combine: Takes the gradients of :func:`task_gradients`, state and parameters,
      returns gradient and state. None if some steps take no task gradients.
  """

  init: Callable[[Any], Any]
  value_and_grad: Callable[..., tuple[Any, Any, Any]]
  combine: Callable[[dict[str, Any], Any, Any], tuple[Any, Any]] | None


def combination(
  method: Method,
  task_losses: Callable[..., tuple[Any, Any, Any]],
  setting: Setting,
  microbatches: int | None = None,
  labelled: Labelled | None = None,
) -> Combination:
  """Makes the functions that combine the gradients of ``task_losses`` by ``method``.

  Args:
    method: One of ``METHODS``.
    task_losses: As in :func:`task_gradients`.
    setting: What the method may have to know of the problem.
    microbatches: As in :func:`task_gradients`.
    labelled: As in :func:`task_gradients`.
  """
  _check_parts(microbatches, labelled)
  aggregator = method.make(setting)
  if method.stacked or method.flat_radius is not None:
    radius = method.flat_radius
    gradients = task_gradients(task_losses, microbatches, radius, labelled)
    of_stacked = _combine(aggregator)

    def stacked(state, params, *args):
      values, found = gradients(params, *args)
      return values, *of_stacked(found, state, params)

    return Combination(aggregator.init, stacked, of_stacked)

  cheapest = value_and_combined_grad(
    _with_aux(task_losses),
    aggregator,
    refresh_every=method.refresh_every,
    has_aux=True,
    microbatches=microbatches,
  )

  def value_and_grad(state, *args):
    mask = _task_mask(labelled, args)
    (losses, aux), grad, state = cheapest.value_and_grad(state, *args, **mask)
    return (losses, *_whole(aux, microbatches)), grad, state

  if method.refresh_every > 1:
    return Combination(cheapest.init, value_and_grad, None)
  by_parts = _combine(aggregator)

  def combine(found, state, params):
    grad, of_aggregator = by_parts(found, state.aggregator, params)
    return grad, state._replace(aggregator=of_aggregator)

  return Combination(cheapest.init, value_and_grad, combine)


def _combine(aggregator: optax.GradientTransformation) -> Callable[..., Any]:
  aggregator = optax.with_extra_args_support(aggregator)

  def combine(found, state, params):
    extra_args = {name: value for name, value in found.items() if name != "grads"}
    return aggregator.update(found["grads"], state, params, **extra_args)

  return combine


def _check_parts(microbatches: int | None, labelled: Labelled | None) -> None:
  """Raises if a loss over a batch's labels would be taken over parts of the batch."""
  if microbatches is not None and labelled is not None:
    raise ValueError(
      "a mean over a batch's labels is not the mean of its parts' means, because they "
      "have different numbers of labels: leave microbatches out for a problem with "
      "missing labels"
    )


def _task_mask(labelled: Labelled | None, args: tuple[Any, ...]) -> dict[str, Any]:
  """Returns the extra argument for the batch in ``args``, after the parameters."""
  return {} if labelled is None else {"task_mask": labelled(args[1])}


def _with_aux(task_losses):
  def losses_and_aux(*args):
    losses, *aux = task_losses(*args)
    return losses, tuple(aux)

  return losses_and_aux


def _whole(aux, microbatches: int | None):
  """Averages floats over the parts of a batch, and takes the last part of others."""
  if microbatches is None:
    return aux
  return jax.tree.map(
    lambda x: x.mean(0) if jnp.issubdtype(x.dtype, jnp.floating) else x[-1], aux
  )


def weights_and_gnr(state: Any, num_tasks: int) -> tuple[jax.Array, jax.Array]:
  """Reads the task weights and the GNRs in a method's state, each [K].

  A method with groups has a row per group: the weights are then the mean over groups,
  the GNRs the geometric mean. What a state does not hold is NaN.
  """
  unknown = jnp.full(num_tasks, jnp.nan)
  found = _of_losses(state)
  weights = unknown if found.weights is None else found.weights
  gnr = found.gnr if isinstance(found, MaxGNRState) else unknown
  by_group = weights.reshape(-1, num_tasks), gnr.reshape(-1, num_tasks)
  return by_group[0].mean(0), jnp.exp(jnp.log(by_group[1]).mean(0))


def gradient_stats(state: Any) -> GradientStats | None:
  """Reads what MaxGNR measured of the gradients; None for a method of another kind."""
  found = _of_losses(state)
  return found.stats if isinstance(found, MaxGNRState) else None


def _of_losses(state: Any) -> Any:
  """Finds the state of the aggregator that combines the gradients of the losses."""
  # `flat_regions` aggregates twice; the second is of the gradients of flat regions.
  flat_regions = isinstance(state, aggregators.FlatRegionsState)
  return aggregator_state(state.plain if flat_regions else state)
