"""Defines the command line; see ``python -m benchmarks.accuracy.solvers --help``."""

import argparse
import json
import shlex
import sys
from pathlib import Path

from tqdm import tqdm

from benchmarks.accuracy import battery
from benchmarks.accuracy.solvers import compare, plots, report, steps
from benchmarks.machine import describe_machine


def main() -> None:
  """Measures everything; writes ``results.json``, two tables and ``steps.png``."""
  parser = argparse.ArgumentParser(
    prog="python -m benchmarks.accuracy.solvers",
    description="The share of Eq. 17's optimum that the solvers reach, how many steps "
    "the default one needs and what they cost. About three minutes on two cores.",
    formatter_class=argparse.ArgumentDefaultsHelpFormatter,
  )
  parser.add_argument(
    "--seeds", type=int, default=100, help="problems of each kind, for the steps"
  )
  parser.add_argument(
    "--rounds", type=int, default=1000, help="repetitions of each timing"
  )
  parser.add_argument(
    "--out", type=Path, default=Path("benchmarks/results/solvers"), help="folder"
  )
  args = parser.parse_args()
  args.out.mkdir(parents=True, exist_ok=True)

  summary = {
    "command": shlex.join(
      ["python", "-m", "benchmarks.accuracy.solvers", *sys.argv[1:]]
    ),
    "seeds": battery.NUM_SEEDS,
    "machine": describe_machine(),
    "fraction_of_optimum": [
      compare.measure(*case)
      for case in tqdm(compare.CASES, unit="case", dynamic_ncols=True)
    ],
    "steps": measure_steps(args.seeds, args.rounds),
  }
  text = json.dumps(summary, indent=1, ensure_ascii=False)
  (args.out / "results.json").write_text(text + "\n")
  (args.out / "table.md").write_text(report.table(summary) + "\n")
  (args.out / "steps.md").write_text(report.steps(summary) + "\n")
  plots.steps(summary, args.out / "steps.png")
  print(report.table(summary), report.steps(summary), sep="\n\n")


def measure_steps(seeds: int, rounds: int) -> dict:
  """Measures the share of the optimum by number of steps, and the time of a call."""
  kinds = len(battery.KINDS) * len(battery.CONDITION_NUMBERS) * len(battery.DECADES)
  total = len(steps.NUM_TASKS) * kinds
  with tqdm(total=total, unit="kind", dynamic_ncols=True) as progress:
    entries = []
    for num_tasks in steps.NUM_TASKS:
      progress.set_description(f"K={num_tasks}")
      entries += steps.measure(num_tasks, seeds, progress.update)
  with tqdm(total=rounds, unit="round", dynamic_ncols=True) as progress:
    times = steps.time_calls(rounds, progress.update)
  return {
    "default": steps.DEFAULT,
    "seeds": seeds,
    "condition_numbers": battery.CONDITION_NUMBERS,
    "decades": battery.DECADES,
    "criterion": steps.ENOUGH,
    "enough": steps.enough(entries),
    "fraction_of_optimum": entries,
    "rounds": rounds,
    "times": times,
  }


if __name__ == "__main__":
  main()
