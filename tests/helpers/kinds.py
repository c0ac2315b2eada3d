"""The kinds of methods, and a few methods that stand for all.

The frame does most things once for all methods: `make test` checks these on the few,
`make test-all` on every method. What takes little time to check is always checked on
every method.
"""

from maxgnr_jax.aggregators._by_passes import Update
from tests.helpers.marks import thorough_but
from tests.helpers.methods import METHODS, NUM_TASKS, PARAMS

# `tests/common/test_kinds.py` finds what kinds differ in, and each of it here.
REPRESENTATIVES = (
  "maxgnr",  # a step and a state of its own, and a momentum like the parameters
  "maxgnr-sketch",  # the same, measured by sketches
  "flat_regions",  # wraps another method, and takes further gradients
  "modo",  # a Gramian of two batches, with memory
  "mgda",  # a Gramian
  "graddrop",  # no weighted sum, but random numbers
  "stch",  # losses
  "dtp",  # KPIs, with memory
)


def of_each_kind(names):
  """The names as a test's parameters; those that represent no kind are `thorough`."""
  return thorough_but(REPRESENTATIVES, names)


def kind(name):
  """What the frame makes a difference for, by what it is.

  Whose step it is, what it measures, whether it weights gradients, what it remembers.
  """
  tx = METHODS[name].make(num_tasks=NUM_TASKS)
  if not isinstance(tx.update, Update):
    return {"step": tx.update.__module__}
  state = tx.init(PARAMS)
  memory = getattr(state, "memory", "momentum")
  return {
    "step": inner(tx.update).__module__,
    "measures": tx.update.way(state, PARAMS, {}, True).measures,
    "weights": state.weights is not None,
    "remembers": "key" if "key" in memory else bool(memory),
  }


def inner(update):
  """The function that takes the step, without what the factory wraps around it."""
  while isinstance(update, Update):
    update = update.update
  return update
