"""Compares the default solver with the paper's solver."""

import itertools

import numpy as np

from benchmarks.accuracy import battery
from maxgnr_jax import projected_gradient, steepest_descent

SOLVERS = {
  "projected_gradient()": projected_gradient(),
  "steepest_descent()": steepest_descent(),
}
CASES = list(itertools.product(SOLVERS, battery.DECADES, battery.NUM_TASKS))


def measure(solver: str, decades: int, num_tasks: int) -> dict:
  """Measures the share of the optimum that a solver reaches, over all problems."""
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
