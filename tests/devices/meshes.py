"""A mesh of eight devices, and parameters with different shardings."""

import re

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

SHAPES = {"both": (16, 8), "rows": (6, 8), "vector": (4,), "whole": (7,), "gain": ()}
SPECS = {
  "both": P("data", "model"),
  "rows": P(None, "data"),
  "vector": P("model"),
  "whole": P(),
  "gain": P(),
}
STACKED = {name: P(None, *spec) for name, spec in SPECS.items()}
PARAMS = {name: jnp.ones(shape) for name, shape in SHAPES.items()}


def make_mesh(kind=AxisType.Auto, data=4):
  devices = jax.devices()[: 2 * data]
  return jax.make_mesh((data, 2), ("data", "model"), (kind, kind), devices=devices)


def put(tree, specs, mesh):
  """A dict of arrays, sharded."""
  return {k: jax.device_put(x, NamedSharding(mesh, specs[k])) for k, x in tree.items()}


def collectives(compiled, branches=False):
  """Kind and number of elements of collectives in a compiled program.

  Args:
    compiled: A compiled function.
    branches: Whether to return those inside of branches, or those outside.
  """
  found, text, name = [], compiled.as_text(), ""
  names = re.findall(r"(?:true|false)_computation=%?([\w.-]+)", text)
  for listed in re.findall(r"branch_computations=\{([^}]*)\}", text):
    names += re.findall(r"[\w.-]+", listed)
  for line in text.splitlines():
    if line.endswith("{"):  # a computation begins
      name = line.removeprefix("ENTRY ").split()[0].lstrip("%")
    if (name in names) != branches:
      continue
    for kind in ("all-reduce", "all-gather", "all-to-all", "collective-permute"):
      for form in (f" {kind}(", f" {kind}-start("):
        if form in line:
          found.append((kind, elements(line.split(" = ")[1].split(form)[0])))
    assert " reduce-scatter" not in line
  return sorted(found)


def elements(shape):
  """Number of elements in an HLO shape such as ``(f32[3]{0}, f32[2,4]{1,0})``."""
  total = 0
  for part in shape.split("[")[1:]:
    size = 1
    for dimension in filter(None, part.split("]")[0].split(",")):
      size *= int(dimension)
    total += size
  return total
