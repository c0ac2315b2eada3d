"""How near the solvers of Eq. 17 come to its optimum: ``python -m benchmarks.solvers``.

Problems and reference are those of the tests: noises that are independent or correlated
in several ways, condition numbers of 10 and 1,000; the optimum is SciPy's, in float64.
Gradient and noise norms are each spread over so many decades, that is powers of 10.
"""

import argparse
import itertools
import json
import shlex
import sys
from pathlib import Path

import numpy as np
from tabulate import tabulate
from tqdm import tqdm

from benchmarks.machine import describe_machine
from maxgnr_jax import projected_gradient, steepest_descent
from tests import solver_battery as battery

SOLVERS = {
  "projected_gradient()": projected_gradient(),
  "steepest_descent()": steepest_descent(),
}


def main() -> None:
  """Prints a table and writes it and all numbers to ``solvers/``."""
  parser = argparse.ArgumentParser(prog="python -m benchmarks.solvers")
  parser.add_argument("--out", type=Path, default=Path("benchmarks/results/solvers"))
  args = parser.parse_args()

  cases = list(itertools.product(SOLVERS, battery.DECADES, battery.NUM_TASKS))
  summary = {
    "command": shlex.join(["python", "-m", "benchmarks.solvers", *sys.argv[1:]]),
    "seeds": battery.NUM_SEEDS,
    "machine": describe_machine(),
    "fraction_of_optimum": [
      measure(*case) for case in tqdm(cases, unit="case", dynamic_ncols=True)
    ],
  }
  args.out.mkdir(parents=True, exist_ok=True)
  (args.out / "results.json").write_text(json.dumps(summary, indent=1) + "\n")
  (args.out / "table.md").write_text(table(summary) + "\n")
  print(table(summary))


def measure(solver: str, decades: int, num_tasks: int) -> dict:
  """The share of the optimum that a solver reaches, over all kinds of problems."""
  ratios = np.concatenate(
    [
      battery.ratios_to_optimum(SOLVERS[solver], kind, num_tasks, condition, decades)
      for kind, condition in itertools.product(battery.KINDS, battery.CONDITION_NUMBERS)
    ]
  )
  return {
    "solver": solver,
    "decades": decades,
    "tasks": num_tasks,
    "problems": len(ratios),
    "mean": float(ratios.mean()),
    "standard_deviation": float(ratios.std(ddof=1)),
    "worst": float(ratios.min()),
  }


def table(summary: dict) -> str:
  """The part of the results with norms over one decade, as a Markdown table."""
  found = {
    (entry["solver"], entry["tasks"]): entry
    for entry in summary["fraction_of_optimum"]
    if entry["decades"] == 1
  }
  rows = [
    [
      num_tasks,
      f"{found['projected_gradient()', num_tasks]['worst']:.5f}",
      f"{found['steepest_descent()', num_tasks]['mean']:.2f} "
      f"± {found['steepest_descent()', num_tasks]['standard_deviation']:.2f}",
      f"{found['steepest_descent()', num_tasks]['worst']:.5f}",
    ]
    for num_tasks in battery.NUM_TASKS
  ]
  header = [
    "K",
    "`projected_gradient()`, worst",
    "`steepest_descent()`, mean ± standard deviation",
    "worst",
  ]
  return tabulate(rows, header, tablefmt="github", disable_numparse=True)


if __name__ == "__main__":
  main()
