"""Command line of the demo: ``python -m benchmarks.experiments.problems.digits --help``."""

import argparse
import shlex
import sys
import time
from pathlib import Path

from benchmarks.experiments.problems.digits import experiment, plots, report
from benchmarks.experiments.problems.digits.methods import DEFAULT_METHODS, METHODS
from benchmarks.experiments.problems.digits.train import EVALUATE_EVERY


def main() -> None:
  """Trains, then prints the table and writes table, figures and results."""
  parser = argparse.ArgumentParser(
    prog="python -m benchmarks.experiments.problems.digits",
    description="Train four tasks on pairs of handwritten digits, by several methods.",
    formatter_class=argparse.ArgumentDefaultsHelpFormatter,
  )
  parser.add_argument("--seeds", type=_at_least(1), default=3, help="runs per method")
  parser.add_argument(
    "--steps",
    type=_at_least(EVALUATE_EVERY),
    default=3_000,
    help=f"training steps per run, rounded down to a multiple of {EVALUATE_EVERY}",
  )
  parser.add_argument(
    "--methods",
    nargs="+",
    choices=[*METHODS, "all"],
    default=DEFAULT_METHODS,
    metavar="METHOD",
    help=f"any of {', '.join(METHODS)}; or all. Single-task models are always trained",
  )
  parser.add_argument("--out", type=Path, default=Path("out/demo"), help="folder")
  args = parser.parse_args()
  methods = (
    list(METHODS) if "all" in args.methods else list(dict.fromkeys(args.methods))
  )
  steps = args.steps // EVALUATE_EVERY * EVALUATE_EVERY
  args.out.mkdir(parents=True, exist_ok=True)

  start = time.monotonic()
  single, joint = experiment.run(methods, args.seeds, steps)
  settings = {
    "command": shlex.join(
      ["python", "-m", "benchmarks.experiments.problems.digits", *sys.argv[1:]]
    ),
    "seeds": args.seeds,
    "steps": steps,
    "training_seconds": round(time.monotonic() - start),
  }
  summary = report.summarise(single, joint, settings)
  report.write(summary, args.out)
  plots.write(single, joint, summary, args.out)
  print(f"\nTest metrics, mean ± standard error over {args.seeds} seeds:\n")
  print(report.table(summary))
  print(f"\nFigures, table and all numbers are in {args.out}/.")


def _at_least(minimum: int):
  def integer(text: str) -> int:
    value = int(text)
    if value < minimum:
      raise argparse.ArgumentTypeError(f"must be at least {minimum}, got {value}")
    return value

  return integer


if __name__ == "__main__":
  main()
