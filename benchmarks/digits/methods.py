"""The methods that share a table, and the single-task models they are compared with."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import optax

from benchmarks.digits.model import trunk_layers, trunk_only
from maxgnr_jax import GradientStats, Solver, baselines, maxgnr, steepest_descent

# What DWA and its like call an epoch: about 6 passes over the digits to train on.
STEPS_PER_EPOCH = 100


class Method(NamedTuple):
  """What turns stacked gradients into one.

  Attributes:
    make: From a number of tasks to a transformation.
    flat_radius: Of the perturbation, if it takes flat gradients as well.
    refresh_every: Steps from one choice of weights to the next.
  """

  make: Callable[[int], optax.GradientTransformation]
  flat_radius: float | None = None
  refresh_every: int = 1


def _equal_weights(stats: GradientStats):
  return jnp.full_like(stats.gradient_norm, 1 / stats.gradient_norm.size)


def equal_weights(num_tasks: int) -> optax.GradientTransformation:
  """The mean of the gradients, with the GNR measured as MaxGNR measures it."""
  return maxgnr(
    0.9, num_tasks=num_tasks, shared=trunk_only, solver=Solver(_equal_weights)
  )


def _on_trunk(factory, *args, **options) -> Method:
  """A method that measures the gradients of the trunk."""

  def make(num_tasks: int) -> optax.GradientTransformation:
    return factory(*args, num_tasks=num_tasks, shared=trunk_only, **options)

  return Method(make)


def _everywhere(factory, *args, **options) -> Method:
  """A method that looks at losses only, or at every coordinate by itself."""
  return Method(lambda num_tasks: factory(*args, num_tasks=num_tasks, **options))


def _unit_gradients(num_tasks: int) -> optax.GradientTransformation:
  """NGDiff that unlearns no task."""
  return baselines.ngdiff([1] * num_tasks, shared=trunk_only)


def _flat_imtl_g(num_tasks: int) -> optax.GradientTransformation:
  return baselines.flat_regions(
    baselines.imtl_g(num_tasks=num_tasks, shared=trunk_only)
  )


# Name on the command line and in the table -> method.
METHODS = {
  "equal-weights": Method(equal_weights),
  "maxgnr-0.5": _on_trunk(maxgnr, 0.5),
  "maxgnr-0.9": _on_trunk(maxgnr, 0.9),
  "maxgnr-0.9-paper-solver": _on_trunk(maxgnr, 0.9, solver=steepest_descent()),
  "maxgnr-0.9-noise-0.9": _on_trunk(maxgnr, 0.9, noise_decay=0.9),
  "maxgnr-0.9-noise-0.99": _on_trunk(maxgnr, 0.9, noise_decay=0.99),
  "maxgnr-0.9-by-layer": _on_trunk(maxgnr, 0.9, groups=trunk_layers),
  "maxgnr-0.9-every-4": _on_trunk(maxgnr, 0.9)._replace(refresh_every=4),
  "maxgnr-0.9-every-16": _on_trunk(maxgnr, 0.9)._replace(refresh_every=16),
  "dwa": _everywhere(baselines.dwa, STEPS_PER_EPOCH),
  "uncertainty": _everywhere(baselines.uncertainty),
  "gradnorm": _on_trunk(baselines.gradnorm),
  "mgda": _on_trunk(baselines.mgda),
  "pcgrad": _on_trunk(baselines.pcgrad),
  "dtp": _everywhere(baselines.dtp),
  "gls": _everywhere(baselines.gls),
  "imtl-g": _on_trunk(baselines.imtl_g),
  "imtl-l": _everywhere(baselines.imtl_l),
  "gradient-norm-scaling": _on_trunk(baselines.gradient_norm_scaling),
  "cagrad": _on_trunk(baselines.cagrad),
  "nash-mtl": _on_trunk(baselines.nash_mtl),
  "fairgrad-2": _on_trunk(baselines.fairgrad, 2.0),
  "conicgrad": _on_trunk(baselines.conicgrad),
  "ngdiff": Method(_unit_gradients),
  "slaw": _everywhere(baselines.slaw),
  "bmtl": _everywhere(baselines.bmtl),
  "gradient-dropout": _everywhere(baselines.gradient_dropout),
  "flat-imtl-g": Method(_flat_imtl_g, flat_radius=0.05),
  "upgrad": _on_trunk(baselines.upgrad),
  "dualproj": _on_trunk(baselines.dualproj),
  "aligned-mtl": _on_trunk(baselines.aligned_mtl),
  "config": _on_trunk(baselines.config),
  "graddrop": _everywhere(baselines.graddrop),
  "gradvac": _on_trunk(baselines.gradvac),
  "random-weights": _everywhere(baselines.random_weights),
  "famo": _everywhere(baselines.famo),
  "stch": _everywhere(baselines.stch),
  "db-mtl": _on_trunk(baselines.db_mtl),
  "moco": _on_trunk(baselines.moco),
  "excess-mtl": _on_trunk(baselines.excess_mtl),
  "sdmgrad": _on_trunk(baselines.sdmgrad),
  "modo": _on_trunk(baselines.modo),
  "krum": _on_trunk(baselines.krum),
  "trimmed-mean": _everywhere(baselines.trimmed_mean),
}
DEFAULT_METHODS = [
  name
  for name, method in METHODS.items()
  if name.startswith(("equal", "maxgnr")) and method.refresh_every == 1
]
