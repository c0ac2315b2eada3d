"""Command line: ``python -m benchmarks.speed.refresh --help``."""

import itertools
import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
from tqdm import tqdm

from benchmarks.speed import report
from benchmarks.speed.models import USUAL, Problem
from benchmarks.speed.program import make_parser, measure, start_summary
from benchmarks.speed.timing import Run, ratio, summarise
from maxgnr_jax import maxgnr, value_and_combined_grad

# Steps that are timed as one; all n divide it, so that each has whole refreshes.
CYCLE = max(report.EVERY)


def main() -> None:
  """Measures everything; writes ``results.json`` and ``table.md``."""
  parser = make_parser(
    "refresh",
    "Time train steps that choose their weights in every n-th step.",
    7,
    USUAL,
    each=f"of {CYCLE} steps",
  )
  parser.add_argument("--tasks", nargs="+", type=int, default=[3, 10])
  parser.add_argument("--batch-sizes", nargs="+", type=int, default=[32])
  args = parser.parse_args()
  args.out.mkdir(parents=True, exist_ok=True)

  entries = []
  problems = list(itertools.product(args.models, args.tasks, args.batch_sizes))
  total = len(problems) * args.rounds
  with tqdm(total=total, unit="round", dynamic_ncols=True) as progress:
    for model, tasks, size in problems:
      problem = {"model": model, "tasks": tasks, "batch_size": size}
      entries.append(measure(cycles, _summary, args.rounds, progress, **problem))
  summary = start_summary("refresh", args.rounds, steps_per_round=CYCLE)
  summary["steps"] = entries
  (args.out / "results.json").write_text(json.dumps(summary, indent=1) + "\n")
  (args.out / "table.md").write_text(report.refresh(summary) + "\n")
  print(report.refresh(summary))


def _summary(name: str, runs: Any, seconds: dict[str, list[float]]) -> dict:
  del runs
  to_single = ratio(seconds[name], seconds["single"])
  return {**summarise(seconds[name]), "to_single": to_single}


def cycles(problem: Problem) -> dict[str, Callable[[], float]]:
  """Makes functions, by name, that take ``CYCLE`` steps and return their mean seconds.

  "single" is a step of the mean loss, "every 1" takes all gradients in every step.
  "cond n" is one compiled step that chooses by its count, "two n" calls one of two.
  """
  single = mean_loss_steps(problem)
  refresh, keep = (refreshed(problem, CYCLE, refresh) for refresh in (True, False))
  chosen = {f"cond {n}": _cycle(refreshed(problem, n)) for n in report.EVERY}
  called = {f"two {n}": _cycle(refresh, keep, n) for n in report.EVERY}
  return {"single": _cycle(single), "every 1": _cycle(refresh), **chosen, **called}


def mean_loss_steps(problem: Problem) -> Run:
  """Makes whole steps with Adam on the mean loss."""
  adam = optax.adam(1e-3)

  def mean_loss(params, batch):
    losses = problem.losses(params, batch)
    return sum(losses) / problem.num_tasks(), losses

  def train_step(state, batch):
    params, adam_state = state
    (_, losses), grad = jax.value_and_grad(mean_loss, has_aux=True)(params, batch)
    updates, adam_state = adam.update(grad, adam_state, params)
    return losses, (optax.apply_updates(params, updates), adam_state)

  params = problem.own_params()
  return Run(train_step, (params, adam.init(params)), problem.batch)


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

  params = problem.own_params()
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
