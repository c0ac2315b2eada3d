"""On a mesh no method gathers gradients; compiled with the usual optimisations."""

import re

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from maxgnr_jax import maxgnr
from tests.devices.meshes import PARAMS, SPECS, STACKED, collectives, make_mesh, put
from tests.helpers.examples import random_grads
from tests.helpers.marks import thorough_but
from tests.helpers.methods import METHODS


def compiled_update(tx, num_tasks, mesh, dtype="float32"):
  grads = put(random_grads(PARAMS, num_tasks), STACKED, mesh)
  params = put(PARAMS, SPECS, mesh)
  grads, params = jax.tree.map(lambda x: x.astype(dtype), (grads, params))
  return jax.jit(tx.update).lower(grads, tx.init(params), params).compile()


@pytest.mark.parametrize(
  ("num_tasks", "dtype"),
  thorough_but([(3, "bfloat16")], [(3, "bfloat16"), (17, "float32")]),
)
def test_maxgnr_on_explicit_axes_takes_two_sums_of_few_numbers(num_tasks, dtype):
  mesh = make_mesh(AxisType.Explicit)
  compiled = compiled_update(maxgnr(num_tasks=num_tasks), num_tasks, mesh, dtype)
  found = collectives(compiled)
  assert {kind for kind, _ in found} == {"all-reduce"}
  # The largest magnitudes of the gradients, and of gradients and momenta; the Gramian
  # and the squared norms.
  *magnitudes, sums = [size for _, size in found]
  assert len(magnitudes) <= 2
  assert sum(magnitudes) == 2 * num_tasks
  assert sums == num_tasks**2 + num_tasks
  assert_branches_are_small(compiled, num_tasks)


@pytest.mark.parametrize(
  ("num_tasks", "dtype"),
  thorough_but([(3, "float32")], [(3, "float32"), (17, "bfloat16")]),
)
def test_maxgnr_on_automatic_axes_takes_sums_of_few_numbers(num_tasks, dtype):
  compiled = compiled_update(maxgnr(num_tasks=num_tasks), num_tasks, make_mesh(), dtype)
  found = collectives(compiled)
  assert {kind for kind, _ in found} == {"all-reduce"}
  # The compiler sums over one mesh axis at a time, and each one shards two parameters:
  # magnitudes of gradients twice, and of momenta, the Gramian and squared norms.
  numbers = 3 * num_tasks + num_tasks**2 + num_tasks
  assert sum(size for _, size in found) <= 2 * 2 * numbers
  assert_branches_are_small(compiled, num_tasks)


@pytest.mark.parametrize("name", ["equal_weights", "mgda"])
def test_aggregators_gather_no_gradients(name):
  compiled = compiled_update(METHODS[name].make(num_tasks=3), 3, make_mesh())
  found = collectives(compiled)
  assert {kind for kind, _ in found} == {"all-reduce"}
  assert sum(size for _, size in found) <= 2 * 2 * 15
  assert_branches_are_small(compiled, 3)


def assert_branches_are_small(compiled, num_tasks):
  """For tiny gradients a branch takes the exact maximum and minimum of each array."""
  found = collectives(compiled, branches=True)
  assert all(kind == "all-reduce" for kind, _ in found)
  assert all(size <= 4 * len(PARAMS) * num_tasks for _, size in found)


@pytest.mark.thorough
def test_large_gradients_of_many_tasks_are_summed_before_they_cross_devices():
  """They are read in a loop, which must neither gather nor sum over devices."""
  mesh, tx = make_mesh(), METHODS["mgda"].make(num_tasks=8)
  shapes = {"one": (512, 128), "other": (250, 264), "both": (256, 256)}
  specs = {"one": P("data"), "other": P(None, "data"), "both": P("model", "data")}
  params = put({k: jnp.ones(shape) for k, shape in shapes.items()}, specs, mesh)
  stacked = {k: P(None, *spec) for k, spec in specs.items()}
  grads = put(random_grads(params, 8), stacked, mesh)
  compiled = jax.jit(tx.update).lower(grads, tx.init(params), params).compile()
  found = collectives(compiled)
  assert {kind for kind, _ in found} == {"all-reduce"}
  assert all(size <= 3 * 8**2 for _, size in found)
  loops = in_loops(compiled.as_text())
  assert loops
  assert not [text for text in loops if " all-reduce" in text]


def in_loops(program):
  """The computations that the loops of a compiled program run, as text."""
  found = re.finditer(
    r"^(?:ENTRY )?%([\w.-]+) .*?^}", program, re.MULTILINE | re.DOTALL
  )
  texts = {match[1]: match[0] for match in found}
  names = re.findall(r"body=%([\w.-]+)", program)
  inside = {}
  while names:
    name = names.pop()
    if name in texts and name not in inside:
      inside[name] = texts[name]
      names += re.findall(r"%([\w.-]+)", texts[name])
  return list(inside.values())
