"""Command line: ``python -m benchmarks.speed.refresh --help``."""

import argparse
import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

from benchmarks.machine import describe_machine
from benchmarks.speed import report
from benchmarks.speed.models import TRUNKS, USUAL, Problem, make_problem
from benchmarks.speed.steps import train_steps
from benchmarks.speed.timing import Run, interleave, ratio, summarise
from maxgnr_jax import maxgnr, value_and_combined_grad

# Steps that are timed as one; all n divide it, so that each has whole refreshes.
CYCLE = max(report.EVERY)


def main() -> None:
  """Measures everything; writes ``results.json`` and ``table.md``."""
  parser = argparse.ArgumentParser(
    prog="python -m benchmarks.speed.refresh",
    description="Time train steps that choose their weights in every n-th step.",
    formatter_class=argparse.ArgumentDefaultsHelpFormatter,
  )
  parser.add_argument(
    "--rounds", type=int, default=7, help=f"repetitions, {CYCLE} steps each"
  )
  parser.add_argument("--models", nargs="+", choices=TRUNKS, default=USUAL)
  parser.add_argument("--tasks", nargs="+", type=int, default=[3, 10])
  parser.add_argument("--batch-sizes", nargs="+", type=int, default=[32])
  out = Path("out/speed-refresh")
  parser.add_argument("--out", type=Path, default=out, help="folder")
  args = parser.parse_args()
  args.out.mkdir(parents=True, exist_ok=True)

  summary: dict[str, Any] = {
    "command": shlex.join(["python", "-m", "benchmarks.speed.refresh", *sys.argv[1:]]),
    "rounds": args.rounds,
    "steps_per_round": CYCLE,
    "machine": describe_machine(),
    "steps": [],
  }
  problems = [
    (model, tasks, size)
    for model in args.models
    for tasks in args.tasks
    for size in args.batch_sizes
  ]
  total = len(problems) * args.rounds
  with tqdm(total=total, unit="round", dynamic_ncols=True) as progress:
    for model, tasks, batch_size in problems:
      progress.set_description(f"{model} K={tasks} batch={batch_size}")
      problem = make_problem(model, tasks, batch_size)
      seconds = interleave(cycles(problem), args.rounds, progress.update)
      summary["steps"].append(
        {
          "model": model,
          "tasks": tasks,
          "batch_size": batch_size,
          "parameters": problem.num_parameters(),
          "runs": {
            name: {**summarise(run), "to_single": ratio(run, seconds["single"])}
            for name, run in seconds.items()
          },
        }
      )
  (args.out / "results.json").write_text(json.dumps(summary, indent=1) + "\n")
  (args.out / "table.md").write_text(report.refresh(summary) + "\n")
  print(report.refresh(summary))


def cycles(problem: Problem) -> dict[str, Callable[[], float]]:
  """Makes functions, by name, that take ``CYCLE`` steps and return their mean seconds.

  "single" is a step of the mean loss, "every 1" takes all gradients in every step.
  "cond n" is one compiled step that chooses by its count, "two n" calls one of two.
  """
  single = train_steps(problem)["single"]
  refresh, keep = (refreshed(problem, CYCLE, refresh) for refresh in (True, False))
  chosen = {f"cond {n}": _cycle(refreshed(problem, n)) for n in report.EVERY}
  called = {f"two {n}": _cycle(refresh, keep, n) for n in report.EVERY}
  return {"single": _cycle(single), "every 1": _cycle(refresh), **chosen, **called}


def refreshed(problem: Problem, every: int, refresh: bool | None = None) -> Run:
  """Makes whole steps with MaxGNR and Adam that keep their weights for some steps."""
  num_tasks, adam = problem.num_tasks(), optax.adam(1e-3)
  combined = value_and_combined_grad(
    problem.losses, maxgnr(num_tasks=num_tasks), refresh_every=every
  )

  def train_step(state, batch):
    params, weights_state, adam_state = state
    losses, grad, weights_state = combined.value_and_grad(
      weights_state, params, batch, refresh=refresh
    )
    updates, adam_state = adam.update(grad, adam_state, params)
    params = optax.apply_updates(params, updates)
    return losses, (params, weights_state, adam_state)

  params = jax.tree.map(jnp.copy, problem.params)  # each run donates its own
  state = (params, combined.init(params), adam.init(params))
  return Run(train_step, state, problem.batch)


def _cycle(first: Run, other: Run | None = None, every: int = 1) -> Callable[[], float]:
  """Takes the first step once in a while, otherwise the other one, on one state."""

  def cycle() -> float:
    seconds, state = [], first.state
    for step in range(CYCLE):
      run = other if other is not None and step % every else first
      run.state = state
      seconds.append(run())
      state = run.state
    first.state = state
    return float(np.mean(seconds))

  return cycle


if __name__ == "__main__":
  main()
