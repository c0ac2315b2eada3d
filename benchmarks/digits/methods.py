"""The methods that share a table, and the single-task models they are compared with."""

import jax.numpy as jnp
import optax

from benchmarks.digits.model import trunk_only
from maxgnr_jax import GradientStats, Solver, baselines, maxgnr, steepest_descent


def _equal_weights(stats: GradientStats):
  return jnp.full_like(stats.gradient_norm, 1 / stats.gradient_norm.size)


def equal_weights(num_tasks: int) -> optax.GradientTransformation:
  """The mean of the gradients, with the GNR measured as MaxGNR measures it."""
  return maxgnr(
    0.9, num_tasks=num_tasks, shared=trunk_only, solver=Solver(_equal_weights)
  )


def _maxgnr(gamma: float, **options):
  return lambda num_tasks: maxgnr(
    gamma, num_tasks=num_tasks, shared=trunk_only, **options
  )


def _baseline(method):
  return lambda num_tasks: method(num_tasks=num_tasks, shared=trunk_only)


# Name on the command line and in the table -> transformation for a number of tasks.
METHODS = {
  "equal-weights": equal_weights,
  "maxgnr-0.5": _maxgnr(0.5),
  "maxgnr-0.9": _maxgnr(0.9),
  "maxgnr-0.9-paper-solver": _maxgnr(0.9, solver=steepest_descent()),
  "mgda": _baseline(baselines.mgda),
  "upgrad": _baseline(baselines.upgrad),
  "dualproj": _baseline(baselines.dualproj),
  "imtl-g": _baseline(baselines.imtl_g),
  "aligned-mtl": _baseline(baselines.aligned_mtl),
}
DEFAULT_METHODS = [name for name in METHODS if name.startswith(("equal", "maxgnr"))]
