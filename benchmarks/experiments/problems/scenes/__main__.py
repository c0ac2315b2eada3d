"""Command line: ``python -m benchmarks.experiments.problems.scenes {train,sweep,report} --help``."""

from benchmarks.experiments import cli
from benchmarks.experiments.problems.scenes.problem import (
  SceneSettings,
  make_problem,
  reference,
)

if __name__ == "__main__":
  cli.main(
    "benchmarks.experiments.problems.scenes", SceneSettings, make_problem, reference
  )
