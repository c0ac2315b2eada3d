"""Writes the tables of all methods in ``docs/methods.md``.

``python -m benchmarks.methods_table`` replaces what lies between ``<!-- methods -->``
and ``<!-- end of methods -->``. What a method does, and who proposed it, is in the
docstring of its factory; what ``update`` needs, and what every update guarantees, in
``benchmarks/methods.py``; how it is tested, in the first line of its tests.
"""

import ast
import inspect
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from tabulate import tabulate

from benchmarks.evidence.page import filled
from benchmarks.methods import AGGREGATORS, Aggregator
from maxgnr_jax import aggregators

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "methods.md"
# What is measured -> heading, backward passes, and memory beyond one gradient.
SECTIONS = {
  "nothing": ("Weights without gradients", "one backward pass", "K numbers"),
  "gramian": (
    "Weights from the Gramian",
    "K + 1 backward passes",
    "1 to 9 times K × the largest layer (K × `sketch` numbers with `sketch=`)",
  ),
  "stacked gradients": (
    "Updates from whole gradients",
    "K backward passes",
    "K gradients",
  ),
}
AROUND = """\
### Made of something else

`gramian_method` costs what the methods from the Gramian cost. `flat_regions` takes
2 K backward passes and the memory of 2 K gradients, in `value_and_flat_task_grads`."""
PARAMS = {"matrix": jnp.zeros((8, 8)), "vector": jnp.zeros(8)}
TASKS = 3


def blocks() -> dict[str, str]:
  """Makes the text of the block: a section for each way to choose an update."""
  known = {name: row for name, row in AGGREGATORS.items() if name != "maxgnr"}
  sections = []
  for measures, (heading, passes, memory) in SECTIONS.items():
    names = [name for name, row in known.items() if measured(row) == measures]
    common = set.intersection(*(set(arguments(name)) for name in names))
    listed = [f"`{name}=`" for name in arguments(names[0]) if name in common]
    text = f"A step takes {passes}, and beyond one gradient memory for\n{memory}.\n"
    text += f"All take {', '.join(listed[:-1])} and {listed[-1]}."
    sections += [f"### {heading}", text, table(names, common)]
  around = [name for name, row in known.items() if measured(row) is None]
  around.append("gramian_method")
  of_gramians = set(arguments("mgda"))
  return {"methods": "\n\n".join([*sections, AROUND, table(around, of_gramians)])}


def measured(row: Aggregator) -> str | None:
  """Tells what a method measures; None if it wraps another one."""
  tx = row.make(num_tasks=TASKS)
  way = getattr(tx.update, "way", None)
  return way and way(tx.init(PARAMS), PARAMS, {}, side_by_side=True).measures


def arguments(name: str) -> list[str]:
  """Lists the arguments of a factory."""
  return list(inspect.signature(getattr(aggregators, name)).parameters)


def table(names: Sequence[str], common: set[str]) -> str:
  """Makes the table of some methods, without columns that would be empty."""
  columns: dict[str, Callable[[str], str]] = {
    "method": lambda name: call(name, common),
    "what it does": idea,
    "keeps": keeps,
    "guarantees": lambda name: "; ".join(row_of(name).guarantees),
    "tested": tested,
  }
  cells = {title: [cell(name) for name in names] for title, cell in columns.items()}
  shown = {title: column for title, column in cells.items() if any(column)}
  return tabulate(shown, headers="keys", tablefmt="github", disable_numparse=True)


def row_of(name: str) -> Aggregator:
  """Returns what the benchmarks know of a method."""
  return AGGREGATORS.get(name, Aggregator(getattr(aggregators, name)))


def call(name: str, common: set[str]) -> str:
  """Returns a call with the arguments that not all methods beside it have.

  A second line says what ``update`` needs.
  """
  own = [argument for argument in arguments(name) if argument not in common]
  lines = [f"`{name}({', '.join(own)})`"]
  if needed := needs(name):
    lines.append(f"needs {needed}")
  return "<br>".join(lines)


def idea(name: str) -> str:
  """Tells what a method does, and who proposed it."""
  papers = source(name)
  return f"{what_it_does(name)} ({papers})" if papers else what_it_does(name)


def what_it_does(name: str) -> str:
  """Returns the first sentence of a factory's docstring, in Markdown."""
  first = docstring(name).partition("\n\n")[0]
  text = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", " ".join(first.split()))
  return text.replace("``", "`").removesuffix(".")


def needs(name: str) -> str:
  """Lists the arguments of ``update`` besides gradients; optional ones in brackets."""
  row = row_of(name)
  return ", ".join([*(f"`{x}`" for x in row.needs), *(f"[`{x}`]" for x in row.takes)])


def keeps(name: str) -> str:
  """Tells whether the state is as large as the gradients of all tasks."""
  if name not in AGGREGATORS:
    return ""
  state: Any = AGGREGATORS[name].make(num_tasks=TASKS).init(PARAMS)
  sizes = [sum(x.size for x in jax.tree.leaves(tree)) for tree in (state, PARAMS)]
  return "K gradients" if sizes[0] >= TASKS * sizes[1] else ""


def source(name: str) -> str:
  """Returns authors, venue and year of the papers that a docstring refers to."""
  references = docstring(name).partition("References:")[2]
  papers = []
  for sentence in re.split(r"(?<!al)\. ", " ".join(references.split())):
    found = re.match(r"([A-Z][^,:]*), (?:.*?, )??([^,]*?)((?:19|20)\d\d)\b", sentence)
    if found:
      authors, venue, year = found.groups()
      papers.append(f"{authors}, {venue}{year}")
  return "; ".join(papers)


def tested(name: str) -> str:
  """Tells by what a method is tested: its tests' first line, and other libraries."""
  path = ROOT / "tests" / "aggregators" / f"test_{name}.py"
  line = (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]
  line = re.sub(r"^.*? (?=(against|beside) )", "", line).removesuffix(".")
  golden = json.loads((ROOT / "tests" / "golden" / "golden.json").read_text())
  sources = {case["source"] for case in golden["cases"] if case["method"] == name}
  libraries = {source.split()[0].replace("torchjd", "TorchJD") for source in sources}
  return "; ".join([line, *sorted(libraries)])


def docstring(name: str) -> str:
  """Returns the docstring of a factory."""
  return inspect.getdoc(getattr(aggregators, name)) or ""


def main() -> None:
  """Rewrites the page."""
  PAGE.write_text(filled(PAGE.read_text(), blocks()))


if __name__ == "__main__":
  main()
