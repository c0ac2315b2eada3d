"""Command line: ``python -m benchmarks.experiments.problems.scm20d {train,sweep,report} --help``."""

from benchmarks.experiments import cli
from benchmarks.experiments.problems.scm20d.problem import TableSettings, make_problem

if __name__ == "__main__":
  cli.main("benchmarks.experiments.problems.scm20d", TableSettings, make_problem)
