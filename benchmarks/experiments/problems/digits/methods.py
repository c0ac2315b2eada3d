"""The methods of the demo: those of all experiments, and one more."""

from benchmarks.experiments.problems.digits.model import trunk_layers
from benchmarks.methods import METHODS as OF_ALL
from benchmarks.methods import Method, on_trunk
from maxgnr_jax import maxgnr

# What DWA and its like call an epoch: about 6 passes over the digits to train on.
STEPS_PER_EPOCH = 100

METHODS: dict[str, Method] = {
  **OF_ALL,
  "maxgnr-0.9-by-layer": on_trunk(maxgnr, 0.9, groups=trunk_layers),
}
DEFAULT_METHODS = [
  name
  for name, method in METHODS.items()
  if name.startswith(("equal", "maxgnr")) and method.refresh_every == 1
]
