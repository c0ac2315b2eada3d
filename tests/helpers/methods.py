"""Every method, with the properties that the common tests rely on.

A new method joins by its row in `benchmarks/methods.py`.
"""

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from benchmarks.methods import AGGREGATORS
from maxgnr_jax import aggregators, maxgnr, steepest_descent
from tests.helpers.examples import example_params


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


def constant_weights(num_tasks=3):
  return aggregators.constant_weights([1.0, 0.5, 2.0, 1.5][:num_tasks])


def flat_regions(num_tasks=None):
  return aggregators.flat_regions(aggregators.excess_mtl(0.1, num_tasks=num_tasks))


def ngdiff(num_tasks=3):
  return aggregators.ngdiff([1, 1, -1, 1][:num_tasks])


def maxgnr_sketch(gamma=0.9, num_tasks=None):
  """MaxGNR with more buckets than the tests have parameters: sketches are exact."""
  return maxgnr(gamma, num_tasks=num_tasks, sketch=33)


# Arguments and factories of the tests' own; all else is as in the benchmarks' table.
ARGUMENTS = {
  "dwa": {"steps_per_epoch": 1},
  "famo": {"optimizer": SGD},
  "gradnorm": {"optimizer": SGD},
  "igb": {"steps_per_epoch": 1},
  "imtl_l": {"optimizer": SGD},
  "uncertainty": {"optimizer": SGD},
}
FACTORIES = {
  "constant_weights": constant_weights,
  "flat_regions": flat_regions,
  "ngdiff": ngdiff,
}
EXEMPT = {
  "constant_weights": FIXED,
  "db_mtl": AVERAGE,
  "gradient_dropout": RANDOM,
  "krum": TOO_FEW,
  "moco": AVERAGE,
  "ngdiff": FIXED,
  "trimmed_mean": TOO_FEW,
}


def tested(name, row):
  """A row of the benchmarks' table with what the tests must know besides."""
  factory = FACTORIES.get(name, row.factory)
  arguments = {**row.arguments, **ARGUMENTS.get(name, {})}
  return Method(
    functools.partial(factory, **arguments) if arguments else factory,
    row.schedulable,
    EXEMPT.get(name, {}),
    row.degree,
  )


METHODS = {name: tested(name, row) for name, row in AGGREGATORS.items()}
METHODS["maxgnr-paper"] = METHODS["maxgnr"]._replace(
  make=functools.partial(maxgnr, solver=steepest_descent(1e-2))
)
METHODS["maxgnr-sketch"] = METHODS["maxgnr"]._replace(make=maxgnr_sketch)
# The frame, with which one writes a method.
FRAME = {"Choice", "Method", "Step", "aggregator", "remember"}


def public_methods():
  """Names of all that makes an aggregator or its weights, the frame aside."""
  names = {name for name in dir(aggregators) if not name.startswith("_")} - FRAME
  return {
    name
    for name in names
    if callable(getattr(aggregators, name)) and not name.endswith("State")
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
