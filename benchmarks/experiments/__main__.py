"""Command line: ``python -m benchmarks.experiments PROBLEM COMMAND``."""

import argparse
from collections.abc import Sequence

from benchmarks.experiments import cli
from benchmarks.experiments.problems import PROBLEMS, load


def main(argv: Sequence[str] | None = None) -> None:
  """Runs one command of one problem."""
  width = max(map(len, PROBLEMS))
  listed = (f"  {name:{width}}  {text}" for name, text in PROBLEMS.items())
  parser = argparse.ArgumentParser(
    prog="python -m benchmarks.experiments",
    description="Train, compare and report multi-task methods on one of the problems.",
    epilog="\n".join(
      ["problems:", *listed, "", "options of a command: PROBLEM COMMAND --help"]
    ),
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("problem", choices=PROBLEMS, metavar="PROBLEM", help="see below")
  parser.add_argument(
    "command",
    nargs=argparse.REMAINDER,
    help="train, sweep, grouping, report, cost or steadiness, and its options",
  )
  chosen = parser.parse_args(argv)
  module = load(chosen.problem)
  cli.main(
    f"benchmarks.experiments {chosen.problem}",
    module.SETTINGS,
    module.make_problem,
    getattr(module, "reference", lambda settings: None),
    chosen.command,
  )


if __name__ == "__main__":
  main()
