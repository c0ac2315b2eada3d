"""What the programs that time steps of networks share."""

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.machine import describe_machine
from benchmarks.speed.models import TRUNKS, Problem, make_problem
from benchmarks.speed.timing import interleave


def make_parser(
  name: str,
  description: str,
  rounds: int,
  models: Sequence[str],
  each: str = "of every measurement",
) -> argparse.ArgumentParser:
  """Makes a parser of rounds, models and the folder of the results.

  Args:
    name: The program's module in ``benchmarks.speed``.
    description: What it times.
    rounds: The default number of repetitions.
    models: The default models.
    each: What is repeated.
  """
  parser = argparse.ArgumentParser(
    prog=f"python -m benchmarks.speed.{name}",
    description=description,
    formatter_class=argparse.ArgumentDefaultsHelpFormatter,
  )
  parser.add_argument("--rounds", type=int, default=rounds, help=f"repetitions {each}")
  parser.add_argument("--models", nargs="+", choices=TRUNKS, default=models)
  out = Path(f"out/speed-{name}")
  parser.add_argument("--out", type=Path, default=out, help="folder")
  return parser


def start_summary(name: str, rounds: int, **more: Any) -> dict[str, Any]:
  """Returns what is written of a run beside its measurements."""
  command = ["python", "-m", f"benchmarks.speed.{name}", *sys.argv[1:]]
  return {
    "command": shlex.join(command),
    "rounds": rounds,
    **more,
    "machine": describe_machine(),
  }


def measure(
  make: Callable[[Problem], dict[str, Any]],
  summarise_run: Callable[..., dict],
  rounds: int,
  progress: tqdm,
  *,
  model: str,
  tasks: int,
  batch_size: int,
) -> dict[str, Any]:
  """Times all runs of a problem in turn.

  Args:
    make: From a problem to its runs by name.
    summarise_run: From the name of a run, all runs and the seconds of all runs to what
      is written of it.
    rounds: Repetitions.
    progress: Bar that shows the rounds.
    model: One of ``TRUNKS``.
    tasks: K.
    batch_size: Rows of the batch.
  """
  progress.set_description(f"{model} K={tasks} batch={batch_size}")
  problem = make_problem(model, tasks, batch_size)
  runs = make(problem)
  seconds = interleave(runs, rounds, progress.update)
  return {
    "model": model,
    "tasks": tasks,
    "batch_size": batch_size,
    "parameters": problem.num_parameters(),
    "largest_layer": problem.largest_layer(),
    "runs": {name: summarise_run(name, runs, seconds) for name in runs},
  }
