"""Command line: ``python -m benchmarks.fashion {train,sweep,report} --help``."""

from benchmarks.experiments import cli
from benchmarks.fashion.problem import FashionSettings, make_problem

if __name__ == "__main__":
  cli.main("benchmarks.fashion", FashionSettings, make_problem)
