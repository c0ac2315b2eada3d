"""Every baseline's update: name -> from a case to the arguments of ``Update``."""

import jax.numpy as jnp

from benchmarks.speed.cases import Case
from maxgnr_jax import aggregators, maxgnr


def _method(factory, *args, **extra_args):
  def make(case: Case):
    values = {name: jnp.full((case.tasks,), x) for name, x in extra_args.items()}
    return factory(*args, num_tasks=case.tasks), case, values

  return make


def _losses(factory, *args):
  return _method(factory, *args, losses=0.7)


def _ngdiff(case: Case):
  return aggregators.ngdiff([1] * case.tasks), case, {}


METHODS = {
  "maxgnr": _method(maxgnr),
  "equal_weights": _method(aggregators.equal_weights),
  "dwa": _losses(aggregators.dwa, 100),
  "uncertainty": _losses(aggregators.uncertainty),
  "gradnorm": _losses(aggregators.gradnorm),
  "mgda": _method(aggregators.mgda),
  "pcgrad": _method(aggregators.pcgrad),
  "dtp": _method(aggregators.dtp, kpis=0.7),
  "gls": _losses(aggregators.gls),
  "imtl_g": _method(aggregators.imtl_g),
  "imtl_l": _losses(aggregators.imtl_l),
  "gradient_norm_scaling": _method(aggregators.gradient_norm_scaling),
  "cagrad": _method(aggregators.cagrad),
  "nash_mtl": _method(aggregators.nash_mtl),
  "fairgrad": _method(aggregators.fairgrad),
  "conicgrad": _method(aggregators.conicgrad),
  "ngdiff": _ngdiff,
  "slaw": _losses(aggregators.slaw),
  "bmtl": _losses(aggregators.bmtl),
  "gradient_dropout": _method(aggregators.gradient_dropout),
  "upgrad": _method(aggregators.upgrad),
  "dualproj": _method(aggregators.dualproj),
  "aligned_mtl": _method(aggregators.aligned_mtl),
  "config": _method(aggregators.config),
  "graddrop": _method(aggregators.graddrop),
  "gradvac": _method(aggregators.gradvac),
  "random_weights": _method(aggregators.random_weights),
  "famo": _losses(aggregators.famo),
  "stch": _losses(aggregators.stch),
  "db_mtl": _losses(aggregators.db_mtl),
  "moco": _method(aggregators.moco),
  "excess_mtl": _method(aggregators.excess_mtl),
  "sdmgrad": _method(aggregators.sdmgrad),
  "modo": _method(aggregators.modo),
  "krum": _method(aggregators.krum),
  "trimmed_mean": _method(aggregators.trimmed_mean),
}
