"""Every method, with the properties that the common tests rely on.

A new method joins by one line in `METHODS`.
"""

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from maxgnr_jax import aggregators, maxgnr, steepest_descent
from tests.helpers.examples import (
  example_params,
)


class Method(NamedTuple):
  """A factory that takes `num_tasks=`, and the properties that the tests rely on."""

  make: Callable[..., optax.GradientTransformationExtraArgs]
  # A numeric argument, its default, and another value that gives other updates.
  schedulable: tuple[str, float, float] | None = None
  # Name of a common test -> why the method is exempt from it.
  exempt: Mapping[str, str] = {}
  # Scaling all gradients by s scales the update by s to this power.
  degree: float = 1.0


FOLLOWED = (
  "test_the_update_for_one_task_points_along_its_gradient",
  "test_the_update_for_equal_gradients_points_along_them",
)
AVERAGE = dict.fromkeys(FOLLOWED, "its update is an average over steps")
RANDOM = dict.fromkeys(FOLLOWED, "coordinates are dropped at random")
FIXED = {"test_steps_are_not_traced_again": "its arguments say how many tasks"}
SGD = optax.sgd(0.1)  # `optax.adam` needs JAX's default promotion of dtypes
TOO_FEW = {
  "test_the_update_for_one_task_points_along_its_gradient": "needs three tasks"
}
NEAREST = {
  "test_one_zero_gradient_leaves_a_finite_nonzero_update": "zero is nearest to all"
}
ZERO = {
  "test_one_zero_gradient_leaves_a_finite_nonzero_update": "zero is the shortest vector"
}


def constant_weights(num_tasks=3):
  return aggregators.constant_weights([1.0, 0.5, 2.0, 1.5][:num_tasks])


def flat_regions(num_tasks=None):
  return aggregators.flat_regions(aggregators.excess_mtl(0.1, num_tasks=num_tasks))


def ngdiff(num_tasks=3):
  return aggregators.ngdiff([1, 1, -1, 1][:num_tasks])


METHODS = {
  "maxgnr": Method(maxgnr, ("gamma", 0.9, 0.1)),
  "maxgnr-paper": Method(
    functools.partial(maxgnr, solver=steepest_descent(1e-2)), ("gamma", 0.9, 0.1)
  ),
  "aligned_mtl": Method(aggregators.aligned_mtl),
  "bmtl": Method(aggregators.bmtl, ("temperature", 1.0, 0.1)),
  "cagrad": Method(aggregators.cagrad, ("c", 0.5, 0.1)),
  "config": Method(aggregators.config),
  "conicgrad": Method(aggregators.conicgrad, ("c", 0.5, 0.99)),
  "constant_weights": Method(constant_weights, exempt=FIXED),
  "db_mtl": Method(aggregators.db_mtl, ("beta", 0.9, 0.1), exempt=AVERAGE),
  "dtp": Method(aggregators.dtp, ("gamma", 1.0, 3.0)),
  "dualproj": Method(aggregators.dualproj),
  "dwa": Method(
    functools.partial(aggregators.dwa, steps_per_epoch=1), ("temperature", 2.0, 0.2)
  ),
  "equal_weights": Method(aggregators.equal_weights),
  "excess_mtl": Method(
    functools.partial(aggregators.excess_mtl, step_size=0.1), ("step_size", 0.1, 0.5)
  ),
  "fairgrad": Method(aggregators.fairgrad, ("alpha", 1.0, 2.0), degree=0.0),
  "famo": Method(functools.partial(aggregators.famo, SGD), ("min_losses", 0.0, 0.2)),
  "flat_regions": Method(flat_regions),
  "gls": Method(aggregators.gls),
  "graddrop": Method(aggregators.graddrop, ("leak", 0.0, 0.5)),
  "gradient_dropout": Method(
    aggregators.gradient_dropout, ("rate", 0.1, 0.3), exempt=RANDOM
  ),
  "gradient_norm_scaling": Method(aggregators.gradient_norm_scaling),
  "gradnorm": Method(functools.partial(aggregators.gradnorm, optimizer=SGD)),
  "gradvac": Method(aggregators.gradvac),
  "imtl_g": Method(aggregators.imtl_g),
  "imtl_l": Method(functools.partial(aggregators.imtl_l, SGD)),
  "krum": Method(aggregators.krum, exempt=TOO_FEW | NEAREST),
  "mgda": Method(aggregators.mgda, exempt=ZERO),
  "moco": Method(aggregators.moco, ("gamma", 0.1, 0.5), exempt=AVERAGE),
  "modo": Method(aggregators.modo, ("gamma", 0.1, 0.5)),
  "nash_mtl": Method(aggregators.nash_mtl, degree=0.0),
  "ngdiff": Method(ngdiff, exempt=FIXED, degree=0.0),
  "pcgrad": Method(aggregators.pcgrad),
  "random_weights": Method(aggregators.random_weights),
  "sdmgrad": Method(aggregators.sdmgrad, ("direction", 0.3, 3.0), exempt=ZERO),
  "slaw": Method(aggregators.slaw, ("beta", 0.99, 0.1)),
  "stch": Method(aggregators.stch, ("mu", 1.0, 0.1)),
  "trimmed_mean": Method(aggregators.trimmed_mean, exempt=TOO_FEW),
  "uncertainty": Method(functools.partial(aggregators.uncertainty, SGD)),
  "upgrad": Method(aggregators.upgrad),
}
NUM_TASKS, NUM_STEPS = 3, 4
PARAMS = example_params()


@functools.cache
def transformation(name):
  """Returns one transformation per method, so that the tests share its compilation."""
  return make(METHODS[name], NUM_TASKS)


def make(method, num_tasks, **kwargs):
  """The method's transformation, which derives losses and KPIs from the gradients."""
  return with_task_values(method.make(num_tasks=num_tasks, **kwargs))


def with_task_values(tx):
  def update(grads, state, params=None, **extra_args):
    rows = jax.tree.leaves(grads)[0]
    rows = rows.reshape(rows.shape[0], -1).astype(jnp.float32)
    size = jnp.max(jnp.abs(rows))
    drawn = jnp.mean(rows, axis=1) / jnp.where(size > 0, size, 1.0)
    values = {"losses": 1.0 + 0.8 * drawn, "kpis": 0.5 + 0.4 * drawn}
    values["flat_grads"] = jax.tree.map(lambda g: 0.5 * g[::-1], grads)
    return tx.update(grads, state, params, **(values | extra_args))

  return optax.GradientTransformationExtraArgs(tx.init, update)
