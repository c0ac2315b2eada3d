"""Command line: ``python -m benchmarks.scenes {train,sweep,report} --help``."""

from benchmarks.experiments import cli
from benchmarks.scenes.problem import SceneSettings, make_problem, reference

if __name__ == "__main__":
  cli.main("benchmarks.scenes", SceneSettings, make_problem, reference)
