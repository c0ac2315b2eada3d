"""Command line: ``python -m benchmarks.experiments.problems.fashion {train,sweep,report} --help``."""

from benchmarks.experiments import cli
from benchmarks.experiments.problems.fashion.problem import (
  FashionSettings,
  make_problem,
)

if __name__ == "__main__":
  cli.main("benchmarks.experiments.problems.fashion", FashionSettings, make_problem)
