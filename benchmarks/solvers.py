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
  """Prints the table and writes ``solvers.json``."""
  parser = argparse.ArgumentParser(prog="python -m benchmarks.solvers")
  parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
  args = parser.parse_args()

  cases = list(itertools.product(SOLVERS, battery.DECADES, battery.NUM_TASKS))
  results = []
  for name, decades, num_tasks in tqdm(cases, unit="case", dynamic_ncols=True):
    ratios = np.concatenate(
      [
        battery.ratios_to_optimum(SOLVERS[name], kind, num_tasks, condition, decades)
        for kind, condition in itertools.product(
          battery.KINDS, battery.CONDITION_NUMBERS
        )
      ]
    )
    results.append(
      {
        "solver": name,
        "decades": decades,
        "tasks": num_tasks,
        "problems": len(ratios),
        "mean": float(ratios.mean()),
        "standard_deviation": float(ratios.std(ddof=1)),
        "worst": float(ratios.min()),
      }
    )

  summary = {
    "command": shlex.join(["python", "-m", "benchmarks.solvers", *sys.argv[1:]]),
    "seeds": battery.NUM_SEEDS,
    "machine": describe_machine(),
    "fraction_of_optimum": results,
  }
  args.out.mkdir(parents=True, exist_ok=True)
  (args.out / "solvers.json").write_text(json.dumps(summary, indent=1) + "\n")
  print(tabulate(results, headers="keys", tablefmt="github", floatfmt=".6f"))


if __name__ == "__main__":
  main()
