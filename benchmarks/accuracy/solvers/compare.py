"""Compares the solvers of the optimum with each other and with the paper's."""

import itertools

import numpy as np

from benchmarks.accuracy import battery
from maxgnr_jax import projected_gradient, projected_newton, steepest_descent

SOLVERS = {
  "projected_newton()": projected_newton(),
  "projected_gradient()": projected_gradient(),
  "steepest_descent()": steepest_descent(),
}
# Condition numbers of the noises' cosines, in the second case where noises all but
# cancel.
CONDITIONS = {"ordinary": battery.CONDITION_NUMBERS, "cancelling": (10_000,)}
CASES = list(itertools.product(SOLVERS, CONDITIONS, battery.DECADES, battery.NUM_TASKS))


def measure(solver: str, noises: str, decades: int, num_tasks: int) -> dict:
  """Measures the share of the optimum that a solver reaches, over all problems."""
  ratios = np.concatenate(
    [
      battery.ratios_to_optimum(SOLVERS[solver], kind, num_tasks, condition, decades)
      for kind, condition in itertools.product(battery.KINDS, CONDITIONS[noises])
    ]
  )
  return {
    "solver": solver,
    "noises": noises,
    "condition_numbers": CONDITIONS[noises],
    "decades": decades,
    "tasks": num_tasks,
    "problems": len(ratios),
    "mean": float(ratios.mean()),
    "standard_deviation": float(ratios.std(ddof=1)),
    "worst": float(ratios.min()),
  }
