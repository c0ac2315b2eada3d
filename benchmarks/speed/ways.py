"""Command line: ``python -m benchmarks.speed.ways --help``."""

import functools
import itertools
import json

import jax
import numpy as np
import optax
from tqdm import tqdm

from benchmarks.speed import report
from benchmarks.speed.models import LAST_BIAS, TRUNKS, Problem
from benchmarks.speed.program import make_parser, measure, start_summary
from benchmarks.speed.timing import Run, ratio, summarise
from maxgnr_jax import (
  aggregators,
  maxgnr,
  value_and_combined_grad,
  value_and_task_grads,
)


def main() -> None:
  """Measures everything; writes ``results.json`` and three tables."""
  parser = make_parser(
    "ways",
    "Time losses and combined gradient by each way to take them, beside the gradient "
    "of the mean loss.",
    15,
    list(TRUNKS),
  )
  parser.add_argument("--tasks", nargs="+", type=int, default=[3, 10])
  parser.add_argument("--batch-size", type=int, default=64)
  args = parser.parse_args()
  args.out.mkdir(parents=True, exist_ok=True)

  entries = []
  problems = list(itertools.product(args.models, args.tasks))
  total = len(problems) * args.rounds
  with tqdm(total=total, unit="round", dynamic_ncols=True) as progress:
    for model, tasks in problems:
      problem = {"model": model, "tasks": tasks, "batch_size": args.batch_size}
      make = functools.partial(ways, last_bias=LAST_BIAS[model])
      summarise_run = functools.partial(_summary, tasks=tasks)
      entries.append(measure(make, summarise_run, args.rounds, progress, **problem))
  summary = start_summary("ways", args.rounds) | {"steps": entries}
  (args.out / "results.json").write_text(json.dumps(summary, indent=1) + "\n")
  tables = {name: getattr(report, name)(summary) for name in report.TABLES_OF_WAYS}
  for name, table in tables.items():
    (args.out / f"{name}.md").write_text(table + "\n")
  print(*tables.values(), sep="\n\n")


def ways(problem: Problem, last_bias: str) -> dict[str, Run]:
  """Makes a run for each way; the first is the gradient of the mean loss.

  Args:
    problem: Losses, parameters and batch.
    last_bias: Path of the bias of the last layer that the tasks share.
  """
  tasks = problem.num_tasks()

  def bias(params):
    def is_it(path, _):
      return jax.tree_util.keystr(path, simple=True, separator="/") == last_bias

    return jax.tree_util.tree_map_with_path(is_it, params)

  def single(state, batch):
    def mean_loss(params):
      losses = problem.losses(params, batch)
      return sum(losses) / tasks, losses

    (_, losses), grad = jax.value_and_grad(mean_loss, has_aux=True)(state)
    return (losses, grad), state

  def forward(state, batch):
    return problem.losses(state, batch), state

  methods = {
    "losses": aggregators.uncertainty(optax.sgd(0.01), num_tasks=tasks),
    "last_bias": maxgnr(num_tasks=tasks, shared=bias),
    "sketch": maxgnr(num_tasks=tasks, sketch=True),
    "gramian": aggregators.mgda(num_tasks=tasks),
  }
  return {
    "single": Run(single, problem.own_params(), problem.batch),
    "forward": Run(forward, problem.own_params(), problem.batch),
    **{name: _combined(problem, method) for name, method in methods.items()},
    **stacked_ways(problem),
  }


def stacked_ways(problem: Problem) -> dict[str, Run]:
  """Makes a run for each way to stacked gradients."""
  tasks = problem.num_tasks()
  at_once = {"stacked": None, "vmap": tasks, "sequential": 1}
  exact = maxgnr(num_tasks=tasks)
  return {name: _stacked(problem, exact, number) for name, number in at_once.items()}


def _combined(problem: Problem, aggregator: optax.GradientTransformation) -> Run:
  combined = value_and_combined_grad(problem.losses, aggregator)

  def step(state, batch):
    params, inner = state
    losses, grad, inner = combined.value_and_grad(inner, params, batch)
    return (losses, grad), (params, inner)

  params = problem.own_params()
  return Run(step, (params, combined.init(params)), problem.batch)


def _stacked(
  problem: Problem, aggregator: optax.GradientTransformation, tasks_at_once: int | None
) -> Run:
  task_grads = value_and_task_grads(problem.losses, tasks_at_once=tasks_at_once)

  def step(state, batch):
    params, inner = state
    losses, grads = task_grads(params, batch)
    grad, inner = aggregator.update(grads, inner, params)
    return (losses, grad), (params, inner)

  params = problem.own_params()
  return Run(step, (params, aggregator.init(params)), problem.batch)


def _summary(
  name: str, runs: dict[str, Run], seconds: dict[str, list[float]], tasks: int
) -> dict:
  """Computes times, ratios in the same round, and memory beyond the single step's."""
  single, forward = np.array(seconds["single"]), np.array(seconds["forward"])
  separate = list((tasks + 1) * (single - forward) + forward)
  extra = runs[name].temporary_bytes() - runs["single"].temporary_bytes()
  return {
    **summarise(seconds[name]),
    "to_single": ratio(seconds[name], seconds["single"]),
    "to_separate_passes": ratio(seconds[name], separate),
    "extra_bytes": extra,
    "compile_seconds": runs[name].compile_seconds,
  }


if __name__ == "__main__":
  main()
