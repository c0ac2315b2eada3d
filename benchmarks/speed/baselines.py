"""Every baseline's update: name -> from a case to the arguments of ``Update``."""

import jax.numpy as jnp

from benchmarks.speed.cases import Case
from maxgnr_jax import baselines, maxgnr


def _method(factory, *args, **extra_args):
  def make(case: Case):
    values = {name: jnp.full((case.tasks,), x) for name, x in extra_args.items()}
    return factory(*args, num_tasks=case.tasks), case, values

  return make


def _losses(factory, *args):
  return _method(factory, *args, losses=0.7)


def _ngdiff(case: Case):
  return baselines.ngdiff([1] * case.tasks), case, {}


METHODS = {
  "maxgnr": _method(maxgnr),
  "equal_weights": _method(baselines.equal_weights),
  "dwa": _losses(baselines.dwa, 100),
  "uncertainty": _losses(baselines.uncertainty),
  "gradnorm": _losses(baselines.gradnorm),
  "mgda": _method(baselines.mgda),
  "pcgrad": _method(baselines.pcgrad),
  "dtp": _method(baselines.dtp, kpis=0.7),
  "gls": _losses(baselines.gls),
  "imtl_g": _method(baselines.imtl_g),
  "imtl_l": _losses(baselines.imtl_l),
  "gradient_norm_scaling": _method(baselines.gradient_norm_scaling),
  "cagrad": _method(baselines.cagrad),
  "nash_mtl": _method(baselines.nash_mtl),
  "fairgrad": _method(baselines.fairgrad),
  "conicgrad": _method(baselines.conicgrad),
  "ngdiff": _ngdiff,
  "slaw": _losses(baselines.slaw),
  "bmtl": _losses(baselines.bmtl),
  "gradient_dropout": _method(baselines.gradient_dropout),
  "upgrad": _method(baselines.upgrad),
  "dualproj": _method(baselines.dualproj),
  "aligned_mtl": _method(baselines.aligned_mtl),
  "config": _method(baselines.config),
  "graddrop": _method(baselines.graddrop),
  "gradvac": _method(baselines.gradvac),
  "random_weights": _method(baselines.random_weights),
  "famo": _losses(baselines.famo),
  "stch": _losses(baselines.stch),
  "db_mtl": _losses(baselines.db_mtl),
  "moco": _method(baselines.moco),
  "excess_mtl": _method(baselines.excess_mtl),
  "sdmgrad": _method(baselines.sdmgrad),
  "modo": _method(baselines.modo),
  "krum": _method(baselines.krum),
  "trimmed_mean": _method(baselines.trimmed_mean),
}
