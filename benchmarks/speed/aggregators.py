"""The updates to time: name -> function from a case to the arguments of ``Update``."""

import jax.numpy as jnp

from benchmarks.methods import AGGREGATORS, Aggregator
from benchmarks.speed.cases import Case


def _update(aggregator: Aggregator):
  def make(case: Case):
    values = {name: jnp.full((case.tasks,), 0.7) for name in aggregator.needs}
    return aggregator.make(case.tasks), case, values

  return make


# Flat gradients would be a second set of the numbers that a case counts.
METHODS = {
  name: _update(aggregator)
  for name, aggregator in AGGREGATORS.items()
  if "flat_grads" not in aggregator.needs
}
