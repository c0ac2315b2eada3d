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
def test_the_only_collectives_of_maxgnr_are_all_reduces_of_few_numbers(
  num_tasks, dtype, kind
):
  mesh = make_mesh(kind)
  params = {k: x.astype(dtype) for k, x in PARAMS.items()}
  grads = put(random_grads(params, num_tasks), STACKED, mesh)
  params = put(params, SPECS, mesh)
  tx = maxgnr(num_tasks=num_tasks)
  compiled = jax.jit(tx.update).lower(grads, tx.init(params), params).compile()
  found = collectives(compiled)
  assert {kind for kind, _ in found} == {"all-reduce"}
  sums = num_tasks**2 + num_tasks
  if kind == AxisType.Explicit:
    # The largest magnitudes of the gradients, and of what is measured; the Gramian and
    # the squared norms.
    *magnitudes, last = [size for _, size in found]
    assert sum(magnitudes) == 2 * num_tasks
    assert last == sums
  else:  # the compiler adds over one axis of the mesh after the other
    assert len(found) <= 4 < len(PARAMS)
    assert all(size <= 2 * sums for _, size in found)
  assert_small(collectives(compiled, branches=True), num_tasks)


@pytest.mark.parametrize("name", ["equal_weights", "mgda"])
def test_aggregators_gather_no_gradients(name):
  mesh, tx = make_mesh(), make(METHODS[name], 3)
  grads = put(random_grads(PARAMS, 3), STACKED, mesh)
  params = put(PARAMS, SPECS, mesh)
  compiled = jax.jit(METHODS[name].make(num_tasks=3).update)
  compiled = compiled.lower(grads, tx.init(params), params).compile()
  assert {kind for kind, _ in collectives(compiled)} == {"all-reduce"}
  assert len(collectives(compiled)) <= 4 < len(PARAMS)
  assert all(size <= 18 for _, size in collectives(compiled))
  assert_small(collectives(compiled, branches=True), 3)


def assert_small(found, num_tasks):
  """For tiny gradients a branch takes the exact maximum, at most one for each array."""
  assert all(kind == "all-reduce" for kind, _ in found)
  assert all(size <= 2 * len(PARAMS) * num_tasks for _, size in found)
