"""The kinds of methods, and one method of each.

The frame does most things once for all methods: `make test` checks these on one method
of each kind, `make test-all` on every method. What a method's own code must guarantee
is always checked on every method.
"""

import pytest

from maxgnr_jax.aggregators._by_passes import Update
from tests.helpers.methods import METHODS, NUM_TASKS, PARAMS

# `tests/common/test_kinds.py` finds the kinds in the code, and each of them here.
REPRESENTATIVES = (
  "maxgnr",  # a step and a state of its own, and a momentum like the parameters
  "maxgnr-sketch",  # the same, measured by sketches
  "flat_regions",  # wraps another method, and takes further gradients
  "modo",  # a Gramian of two batches, with memory
  "mgda",  # a Gramian
  "pcgrad",  # a Gramian and random numbers
  "gradnorm",  # a Gramian and losses, with memory
  "excess_mtl",  # the gradients, with memory
  "stch",  # losses
  "dtp",  # KPIs, with memory
  "random_weights",  # random numbers alone; a zero gradient is a gradient to it
  "trimmed_mean",  # no weighted sum
  "graddrop",  # no weighted sum, but random numbers
  "db_mtl",  # no weighted sum, but losses and memory
)


def of_each_kind(names):
  """The names as a test's parameters; those that represent no kind are `thorough`."""
  return [
    name if name in REPRESENTATIVES else pytest.param(name, marks=pytest.mark.thorough)
    for name in names
  ]


def kind(name):
  """What the frame makes a difference for.

  Whose step it is, what it measures, whether it weights gradients, what it remembers.
  """
  tx = METHODS[name].make(num_tasks=NUM_TASKS)
  if not isinstance(tx.update, Update):
    return (tx.update.__module__,)
  state = tx.init(PARAMS)
  measures = tx.update.way(state, PARAMS, {}, True).measures
  memory = getattr(state, "memory", "momentum")
  remembers = "key" if "key" in memory else bool(memory)
  return inner(tx.update).__module__, measures, state.weights is not None, remembers


def inner(update):
  """The function that takes the step, without what the factory wraps around it."""
  while isinstance(update, Update):
    update = update.update
  return update
