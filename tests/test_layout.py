"""The package's modules import each other without cycles, and all files are small."""

import ast
import graphlib
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "maxgnr_jax"


def name_of(path):
  parts = path.relative_to(ROOT).with_suffix("").parts
  return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path, modules):
  """The package's modules that a file names in its imports."""
  found = set()
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.ImportFrom) and node.module in modules:
      submodules = {f"{node.module}.{alias.name}" for alias in node.names} & modules
      found |= submodules or {node.module}
    elif isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names} & modules
  return found


def test_modules_import_each_other_without_cycles():
  paths = {name_of(path): path for path in PACKAGE.rglob("*.py")}
  graph = {name: imported(path, set(paths)) for name, path in paths.items()}
  assert any(graph.values())
  graphlib.TopologicalSorter(graph).prepare()  # raises `CycleError`


def test_no_file_of_the_package_is_longer_than_350_lines():
  long = [
    p.name for p in PACKAGE.rglob("*.py") if len(p.read_text().splitlines()) > 350
  ]
  assert long == []
