"""On a mesh no method gathers gradients; compiled with the usual optimisations."""

import jax
import pytest
from jax.sharding import AxisType

from maxgnr_jax import maxgnr
from tests.devices.meshes import PARAMS, SPECS, STACKED, collectives, make_mesh, put
from tests.helpers.examples import random_grads
from tests.helpers.methods import METHODS, make


@pytest.mark.parametrize(
  ("num_tasks", "dtype", "kind"),
  [  # every pair of these values
    (3, "float32", AxisType.Auto),
    (3, "bfloat16", AxisType.Explicit),
    (17, "float32", AxisType.Explicit),
    (17, "bfloat16", AxisType.Auto),
  ],
)
def test_the_only_collectives_of_maxgnr_are_sums_of_few_numbers(num_tasks, dtype, kind):
  mesh = make_mesh(kind)
  params = {k: x.astype(dtype) for k, x in PARAMS.items()}
  grads = put(random_grads(params, num_tasks), STACKED, mesh)
  params = put(params, SPECS, mesh)
  tx = maxgnr(num_tasks=num_tasks)
  compiled = jax.jit(tx.update).lower(grads, tx.init(params), params).compile()
  # One all-reduce for the largest magnitudes, one for the Gramian and squared norms.
  sums = num_tasks**2 + num_tasks
  assert collectives(compiled) == [("all-reduce", num_tasks), ("all-reduce", sums)]


@pytest.mark.parametrize("name", ["equal_weights", "mgda"])
def test_aggregators_gather_no_gradients(name):
  mesh, tx = make_mesh(), make(METHODS[name], 3)
  grads = put(random_grads(PARAMS, 3), STACKED, mesh)
  params = put(PARAMS, SPECS, mesh)
  compiled = jax.jit(METHODS[name].make(num_tasks=3).update)
  compiled = compiled.lower(grads, tx.init(params), params).compile()
  assert {kind for kind, _ in collectives(compiled)} == {"all-reduce"}
  assert all(size <= 12 for _, size in collectives(compiled))
