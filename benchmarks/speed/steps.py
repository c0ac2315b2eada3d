"""Command line: ``python -m benchmarks.speed.steps --help``."""

import argparse
import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from tqdm import tqdm

from benchmarks.machine import describe_machine
from benchmarks.speed import plots, report
from benchmarks.speed.models import TRUNKS, USUAL, Problem, make_problem
from benchmarks.speed.timing import Run, interleave, ratio, summarise
from maxgnr_jax import aggregators, maxgnr, value_and_task_grads

STEP_TASKS = 3
GRADIENT_TASKS = (3, 10)


def main() -> None:
  """Measures everything; writes ``results.json``, two tables and ``steps.png``."""
  parser = argparse.ArgumentParser(
    prog="python -m benchmarks.speed.steps",
    description="Time of whole train steps, also by the way to stacked gradients.",
    formatter_class=argparse.ArgumentDefaultsHelpFormatter,
  )
  parser.add_argument(
    "--rounds", type=int, default=15, help="repetitions of every measurement"
  )
  parser.add_argument("--models", nargs="+", choices=TRUNKS, default=USUAL)
  parser.add_argument("--batch-sizes", nargs="+", type=int, default=[32, 256])
  out = Path("out/speed-steps")
  parser.add_argument("--out", type=Path, default=out, help="folder")
  args = parser.parse_args()
  args.out.mkdir(parents=True, exist_ok=True)

  summary: dict[str, Any] = {
    "command": shlex.join(["python", "-m", "benchmarks.speed.steps", *sys.argv[1:]]),
    "rounds": args.rounds,
    "machine": describe_machine(),
    "steps": [],
    "task_grads": [],
  }
  problems = [(model, size) for model in args.models for size in args.batch_sizes]
  total = len(problems) * (1 + len(GRADIENT_TASKS)) * args.rounds
  with tqdm(total=total, unit="round", dynamic_ncols=True) as progress:

    def measure(make: Callable, tasks: int, model: str, batch_size: int) -> dict:
      progress.set_description(f"{model} K={tasks} batch={batch_size}")
      problem = make_problem(model, tasks, batch_size)
      runs = make(problem)
      seconds = interleave(runs, args.rounds, progress.update)
      return {
        "model": model,
        "tasks": tasks,
        "batch_size": batch_size,
        "parameters": problem.num_parameters(),
        "runs": {name: _summary(name, runs[name], seconds) for name in runs},
      }

    for problem in problems:
      summary["steps"].append(measure(train_steps, STEP_TASKS, *problem))
      for tasks in GRADIENT_TASKS:
        summary["task_grads"].append(measure(task_grads, tasks, *problem))
  (args.out / "results.json").write_text(json.dumps(summary, indent=1) + "\n")
  (args.out / "steps.md").write_text(report.steps(summary) + "\n")
  (args.out / "task_grads.md").write_text(report.task_grads(summary) + "\n")
  plots.steps(summary, args.out / "steps.png")
  print(report.steps(summary), report.task_grads(summary), sep="\n\n")


def train_steps(problem: Problem) -> dict[str, Run]:
  """Makes whole steps with Adam; their state holds parameters and optimiser state."""
  num_tasks = problem.num_tasks()

  def mean_loss(params, batch):
    losses = problem.losses(params, batch)
    return sum(losses) / num_tasks, losses

  def single(params, batch):
    (_, losses), grads = jax.value_and_grad(mean_loss, has_aux=True)(params, batch)
    return losses, grads

  return {
    "single": _train_step(problem, single, optax.adam(1e-3)),
    "equal_weights": _aggregated(
      problem, aggregators.equal_weights(num_tasks=num_tasks)
    ),
    "maxgnr": _aggregated(problem, maxgnr(num_tasks=num_tasks)),
  }


def task_grads(problem: Problem) -> dict[str, Run]:
  """Makes whole steps with MaxGNR, one for each way to take task gradients."""
  num_tasks = problem.num_tasks()
  ways = {"written_out": None, "vmap": num_tasks, "sequential": 1}
  return {
    name: _aggregated(problem, maxgnr(num_tasks=num_tasks), tasks_at_once)
    for name, tasks_at_once in ways.items()
  }


def _aggregated(problem, aggregator, tasks_at_once=None) -> Run:
  tx = optax.chain(aggregator, optax.adam(1e-3))
  return _train_step(
    problem, value_and_task_grads(problem.losses, tasks_at_once=tasks_at_once), tx
  )


def _train_step(problem, differentiated, tx) -> Run:
  def train_step(state, batch):
    params, opt_state = state
    losses, grads = differentiated(params, batch)
    updates, opt_state = tx.update(grads, opt_state, params)
    return losses, (optax.apply_updates(params, updates), opt_state)

  params = jax.tree.map(jnp.copy, problem.params)  # each run donates its own
  return Run(train_step, (params, tx.init(params)), problem.batch)


def _summary(name: str, run: Run, every: dict[str, list[float]]) -> dict:
  """Computes times, ratios to the first run of the same round, and memory."""
  reference = next(iter(every))
  return {
    **summarise(every[name]),
    f"to_{reference}": ratio(every[name], every[reference]),
    "temporary_megabytes": 1e-6 * run.temporary_bytes(),
    "compile_seconds": run.compile_seconds,
  }


if __name__ == "__main__":
  main()
