"""Command line: ``python -m benchmarks.speed --help``."""

import argparse
import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import jax
from tqdm import tqdm

from benchmarks.machine import describe_machine
from benchmarks.speed import plots, report
from benchmarks.speed.aggregators import METHODS
from benchmarks.speed.cases import Case, Update, copy, naive, solver
from benchmarks.speed.timing import interleave, ratio, summarise
from benchmarks.speed.torch_client import Torch
from maxgnr_jax import maxgnr

ON_CPU = (
  Case(3, 24_000_000, 12),
  Case(3, 2_400_000, 100),
  Case(10, 5_000_000, 12),
  Case(40, 2_400_000, 12),
)
ON_ACCELERATOR = (
  Case(3, 24_000_000, 100),
  Case(3, 100_000_000, 100),
  Case(10, 100_000_000, 100),
)
TABLE = ON_CPU if jax.default_backend() == "cpu" else ON_ACCELERATOR
BFLOAT16 = tuple(case._replace(dtype="bfloat16") for case in TABLE)
GROWTH = (
  *(Case(3, parameters, 12) for parameters in (10**4, 10**5, 10**6, 10**7, 5 * 10**7)),
  *(Case(tasks, 10**6, 12) for tasks in (2, 3, 5, 6, 7, 10, 20, 40, 100)),
)
COMPILED = Case(3, 2_400_000, 400)
AGGREGATORS = (Case(3, 5_000_000, 12), Case(10, 2_000_000, 12))


def main() -> None:
  """Measures everything; writes ``results.json``, two tables and ``growth.png``."""
  parser = argparse.ArgumentParser(
    prog="python -m benchmarks.speed",
    description="Time a step and compare it with the memory's speed and TorchJD. On "
    "an accelerator, models are larger and the copy is made by JAX.",
    formatter_class=argparse.ArgumentDefaultsHelpFormatter,
  )
  parser.add_argument(
    "--rounds", type=int, default=15, help="repetitions of every measurement"
  )
  parser.add_argument(
    "--torch",
    type=Path,
    help="Python of an environment with PyTorch and TorchJD; `make speed` makes one",
  )
  parser.add_argument("--out", type=Path, default=Path("out/speed"), help="folder")
  args = parser.parse_args()
  args.out.mkdir(parents=True, exist_ok=True)

  torch = Torch(args.torch) if args.torch else None
  cases = len(TABLE) + len(BFLOAT16) + len(GROWTH) + 1 + len(AGGREGATORS)
  with tqdm(total=cases * args.rounds, unit="round", dynamic_ncols=True) as progress:

    def measure(case: Case, methods: dict[str, Callable], *, others=("copy",)) -> dict:
      progress.set_description(f"K={case.tasks} D={case.parameters:.0e} {case.dtype}")
      updates = {name: Update(*make(case)) for name, make in methods.items()}
      runs: dict[str, Callable[[], float]] = {**updates, "solver": solver(case)}
      if torch is None:
        runs["copy"] = copy(case)
      else:
        counterparts = torch.runs(case)
        names = [f"torch {name}" for name in others]
        runs |= {name: counterparts[name] for name in names if name in counterparts}
      seconds = interleave(runs, args.rounds, progress.update)
      return {
        **case._asdict(),
        "floor_numbers": case.floor(),
        "runs": {name: _summary(values, seconds) for name, values in seconds.items()},
        "compile_seconds": {n: u.compile_seconds for n, u in updates.items()},
        "temporary_share": {n: u.temporary_share() for n, u in updates.items()},
      }

    both = {"maxgnr": _maxgnr, "sketch": _sketch, "naive": _naive}
    summary = {
      "command": shlex.join(["python", "-m", "benchmarks.speed", *sys.argv[1:]]),
      "rounds": args.rounds,
      "machine": describe_machine(),
      "torch": torch.versions if torch else None,
      "table": [measure(case, both, others=("copy", "mgda")) for case in TABLE],
      "bfloat16": [measure(case, both) for case in BFLOAT16],
      "growth": [measure(case, both) for case in GROWTH],
      "compiled": measure(COMPILED, both),
      "aggregators": [
        measure(case, METHODS, others=("copy", *METHODS)) for case in AGGREGATORS
      ],
    }
  if torch is not None:
    torch.close()
  (args.out / "results.json").write_text(json.dumps(summary, indent=1) + "\n")
  tables = {name: getattr(report, name)(summary) for name in report.TABLES_OF_UPDATES}
  for name, table in tables.items():
    (args.out / f"{name}.md").write_text(table + "\n")
  plots.growth(summary, args.out / "growth.png")
  print(*tables.values(), sep="\n\n")


def _maxgnr(case: Case):
  return maxgnr(num_tasks=case.tasks), case


def _sketch(case: Case):
  return maxgnr(num_tasks=case.tasks, sketch=True), case


def _naive(case: Case):
  return naive(case), case


def _summary(seconds: list[float], every: dict[str, list[float]]) -> dict:
  """Computes median and quartiles in ms, and the median ratio to the round's copy."""
  copied = every["torch copy" if "torch copy" in every else "copy"]
  found = {**summarise(seconds), "to_copy": ratio(seconds, copied)}
  if "maxgnr" in every:
    found["to_maxgnr"] = ratio(seconds, every["maxgnr"])
  return found


if __name__ == "__main__":
  main()
