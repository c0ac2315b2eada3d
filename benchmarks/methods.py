"""The methods that share a table, and what makes one gradient of a model's losses."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from maxgnr_jax import (
  GradientStats,
  Solver,
  aggregators,
  maxgnr,
  steepest_descent,
  value_and_combined_grad,
  value_and_flat_task_grads,
  value_and_task_grads,
)


class Setting(NamedTuple):
  """What a method may have to know of the problem.

  Attributes:
    num_tasks: K.
    shared: Function from the parameters to bools: where gradients are measured.
    steps_per_epoch: What DWA and its like call an epoch.
  """

  num_tasks: int
  shared: Callable[[Any], Any]
  steps_per_epoch: int


class Method(NamedTuple):
  """What turns stacked gradients into one.

  Attributes:
    make: From a setting to a transformation.
    flat_radius: Of the perturbation, if it takes flat gradients as well.
    refresh_every: Steps from one choice of weights to the next.
  """

  make: Callable[[Setting], optax.GradientTransformation]
  flat_radius: float | None = None
  refresh_every: int = 1


def _equal_weights(stats: GradientStats):
  return jnp.full_like(stats.gradient_norm, 1 / stats.gradient_norm.size)


def on_trunk(factory, *args, **options) -> Method:
  """A method that measures the gradients of the trunk."""

  def make(setting: Setting) -> optax.GradientTransformation:
    return factory(*args, num_tasks=setting.num_tasks, shared=setting.shared, **options)

  return Method(make)


def _everywhere(factory, *args, **options) -> Method:
  """A method that looks at losses only, or at every coordinate or parameter."""
  return Method(lambda setting: factory(*args, num_tasks=setting.num_tasks, **options))


def _dwa(setting: Setting) -> optax.GradientTransformation:
  return aggregators.dwa(setting.steps_per_epoch, num_tasks=setting.num_tasks)


def _unit_gradients(setting: Setting) -> optax.GradientTransformation:
  """NGDiff that unlearns no task."""
  return aggregators.ngdiff([1] * setting.num_tasks, shared=setting.shared)


def _flat_imtl_g(setting: Setting) -> optax.GradientTransformation:
  return aggregators.flat_regions(
    aggregators.imtl_g(num_tasks=setting.num_tasks, shared=setting.shared)
  )


# With equal weights the GNR is measured as MaxGNR measures it.
EQUAL_WEIGHTS = on_trunk(maxgnr, 0.9, solver=Solver(_equal_weights))

# Name on the command line and in the table -> method.
METHODS = {
  "equal-weights": EQUAL_WEIGHTS,
  "maxgnr-0.5": on_trunk(maxgnr, 0.5),
  "maxgnr-0.9": on_trunk(maxgnr, 0.9),
  "maxgnr-0.9-paper-solver": on_trunk(maxgnr, 0.9, solver=steepest_descent()),
  "maxgnr-0.9-noise-0.9": on_trunk(maxgnr, 0.9, noise_decay=0.9),
  "maxgnr-0.9-noise-0.99": on_trunk(maxgnr, 0.9, noise_decay=0.99),
  "maxgnr-0.9-every-4": on_trunk(maxgnr, 0.9)._replace(refresh_every=4),
  "maxgnr-0.9-every-16": on_trunk(maxgnr, 0.9)._replace(refresh_every=16),
  "dwa": Method(_dwa),
  "uncertainty": _everywhere(aggregators.uncertainty),
  "gradnorm": on_trunk(aggregators.gradnorm),
  "mgda": on_trunk(aggregators.mgda),
  "pcgrad": on_trunk(aggregators.pcgrad),
  "dtp": _everywhere(aggregators.dtp),
  "gls": _everywhere(aggregators.gls),
  "imtl-g": on_trunk(aggregators.imtl_g),
  "imtl-l": _everywhere(aggregators.imtl_l),
  "gradient-norm-scaling": on_trunk(aggregators.gradient_norm_scaling),
  "cagrad": on_trunk(aggregators.cagrad),
  "nash-mtl": on_trunk(aggregators.nash_mtl),
  "fairgrad-2": on_trunk(aggregators.fairgrad, 2.0),
  "conicgrad": on_trunk(aggregators.conicgrad),
  "ngdiff": Method(_unit_gradients),
  "slaw": _everywhere(aggregators.slaw),
  "bmtl": _everywhere(aggregators.bmtl),
  "gradient-dropout": _everywhere(aggregators.gradient_dropout),
  "flat-imtl-g": Method(_flat_imtl_g, flat_radius=0.05),
  "upgrad": on_trunk(aggregators.upgrad),
  "dualproj": on_trunk(aggregators.dualproj),
  "aligned-mtl": on_trunk(aggregators.aligned_mtl),
  "config": on_trunk(aggregators.config),
  "graddrop": _everywhere(aggregators.graddrop),
  "gradvac": on_trunk(aggregators.gradvac),
  "random-weights": _everywhere(aggregators.random_weights),
  "famo": _everywhere(aggregators.famo),
  "stch": _everywhere(aggregators.stch),
  "db-mtl": on_trunk(aggregators.db_mtl),
  "moco": on_trunk(aggregators.moco),
  "excess-mtl": on_trunk(aggregators.excess_mtl),
  "sdmgrad": on_trunk(aggregators.sdmgrad),
  "modo": on_trunk(aggregators.modo),
  "krum": on_trunk(aggregators.krum),
  "trimmed-mean": _everywhere(aggregators.trimmed_mean),
}

_MAXGNR = re.compile(
  r"maxgnr-(?P<gamma>\d+(\.\d+)?)(?P<paper>-paper-solver)?(?P<all>-all)?"
)


def named(name: str) -> Method:
  """The method of a name: one of ``METHODS``, or MaxGNR with its options.

  ``maxgnr-GAMMA[-paper-solver][-all]``: γ in [0, 1), solved as in Section 5.1 of the
  paper or exactly, measured on all parameters or on those that the tasks share.

  Raises:
    ValueError: if there is none of that name.
  """
  if name in METHODS:
    return METHODS[name]
  options = _MAXGNR.fullmatch(name)
  if options is None:
    raise ValueError(
      f"there is no method {name!r}: it must be maxgnr-GAMMA[-paper-solver][-all] or "
      f"one of {', '.join(METHODS)}"
    )
  kind = _everywhere if options["all"] else on_trunk
  solver = {"solver": steepest_descent()} if options["paper"] else {}
  return kind(maxgnr, float(options["gamma"]), **solver)


def task_gradients(
  task_losses: Callable[..., tuple[Any, Any, Any]],
  microbatches: int | None = None,
  flat_radius: float | None = None,
) -> Callable[..., tuple[Any, dict[str, Any]]]:
  """What most methods are made of: it depends on none of them.

  Args:
    task_losses: From parameters, batch and more to the losses, the tasks' key
      performance indicators in [0, 1], both dicts of scalars, and anything else.
    microbatches: Parts in which a batch is taken; what the losses return besides is
      then the mean over them.
    flat_radius: Of the perturbation, for flat gradients as well.

  Returns:
    A function of the losses' arguments to ``((losses, kpis, rest), gradients)``, of
    which the latter holds ``grads`` and what else an update takes.

  Raises:
    ValueError: for microbatches of flat gradients, which are taken at once.
  """
  losses_and_aux = _with_aux(task_losses)
  if flat_radius is None:
    differentiated = value_and_task_grads(
      losses_and_aux, has_aux=True, microbatches=microbatches
    )

    def gradients(*args):
      (losses, aux), grads = differentiated(*args)
      kpis, rest = _whole(aux, microbatches)
      return (losses, kpis, rest), {"grads": grads, "losses": losses, "kpis": kpis}

    return gradients

  if microbatches is not None:
    raise ValueError(
      "a method of flat gradients takes a batch at once: leave microbatches out"
    )
  perturbed = value_and_flat_task_grads(losses_and_aux, flat_radius, has_aux=True)

  def flat_gradients(*args):
    (losses, aux), (grads, flat_grads) = perturbed(*args)
    found = {"grads": grads, "flat_grads": flat_grads, "losses": losses}
    return (losses, *aux), found

  return flat_gradients


class Combination(NamedTuple):
  """Pure functions: K losses to one gradient, by a method.

  Attributes:
    init: From the parameters to the method's state.
    value_and_grad: From state and the losses' arguments to
      ``((losses, kpis, rest), gradient, state)``.
    combine: From the gradients of :func:`task_gradients`, state and parameters to
      gradient and state; None if not every step takes all gradients.
  """

  init: Callable[[Any], Any]
  value_and_grad: Callable[..., tuple[Any, Any, Any]]
  combine: Callable[[dict[str, Any], Any, Any], tuple[Any, Any]] | None


def combination(
  method: Method,
  task_losses: Callable[..., tuple[Any, Any, Any]],
  setting: Setting,
  microbatches: int | None = None,
) -> Combination:
  """The gradient that ``method`` makes of the gradients of ``task_losses``.

  Args:
    method: One of ``METHODS``.
    task_losses: As in :func:`task_gradients`.
    setting: Of the problem.
    microbatches: As in :func:`task_gradients`.
  """
  aggregator = optax.with_extra_args_support(method.make(setting))
  if method.refresh_every > 1:
    refreshed = value_and_combined_grad(
      _with_aux(task_losses),
      aggregator,
      refresh_every=method.refresh_every,
      has_aux=True,
      microbatches=microbatches,
    )

    def refresh(state, *args):
      (losses, aux), grad, state = refreshed.value_and_grad(state, *args)
      return (losses, *_whole(aux, microbatches)), grad, state

    return Combination(refreshed.init, refresh, None)

  gradients = task_gradients(task_losses, microbatches, method.flat_radius)

  def combine(found, state, params):
    extra_args = {name: value for name, value in found.items() if name != "grads"}
    return aggregator.update(found["grads"], state, params, **extra_args)

  def value_and_grad(state, params, *args):
    values, found = gradients(params, *args)
    return values, *combine(found, state, params)

  return Combination(aggregator.init, value_and_grad, combine)


def _with_aux(task_losses):
  def losses_and_aux(*args):
    losses, *aux = task_losses(*args)
    return losses, tuple(aux)

  return losses_and_aux


def _whole(aux, microbatches: int | None):
  """Of what parts of a batch left: the mean, and the last of what has none."""
  if microbatches is None:
    return aux
  return jax.tree.map(
    lambda x: x.mean(0) if jnp.issubdtype(x.dtype, jnp.floating) else x[-1], aux
  )


def weights_and_gnr(state: Any) -> tuple[jax.Array, jax.Array]:
  """The weights in use, [K], and the GNRs under them: NaN where not measured."""
  # Of two aggregates, as of flat regions, the first.
  _, weights = optax.tree.get_all_with_path(state, "weights")[0]
  return weights, optax.tree.get(state, "gnr", jnp.full_like(weights, jnp.nan))
