"""Command line: ``python -m benchmarks.speed.steps --help``."""

import json

import jax
import optax
from tqdm import tqdm

from benchmarks.speed import plots, report
from benchmarks.speed.models import USUAL, Problem
from benchmarks.speed.program import make_parser, measure, start_summary
from benchmarks.speed.timing import Run, ratio, summarise
from maxgnr_jax import aggregators, maxgnr, value_and_task_grads

STEP_TASKS = 3
GRADIENT_TASKS = (3, 10)


def main() -> None:
  """Measures everything; writes ``results.json``, two tables and ``steps.png``."""
  parser = make_parser(
    "steps",
    "Time of whole train steps, also by the way to stacked gradients.",
    15,
    USUAL,
  )
  parser.add_argument("--batch-sizes", nargs="+", type=int, default=[32, 256])
  args = parser.parse_args()
  args.out.mkdir(parents=True, exist_ok=True)

  lists: dict[str, list] = {"steps": [], "task_grads": []}
  problems = [(model, size) for model in args.models for size in args.batch_sizes]
  total = len(problems) * (1 + len(GRADIENT_TASKS)) * args.rounds
  with tqdm(total=total, unit="round", dynamic_ncols=True) as progress:
    for model, size in problems:
      rows = [("steps", train_steps, STEP_TASKS)]
      rows += [("task_grads", task_grads, tasks) for tasks in GRADIENT_TASKS]
      for name, make, tasks in rows:
        problem = {"model": model, "tasks": tasks, "batch_size": size}
        entry = measure(make, _summary, args.rounds, progress, **problem)
        lists[name].append(entry)
  summary = start_summary("steps", args.rounds) | lists
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

  params = problem.own_params()
  return Run(train_step, (params, tx.init(params)), problem.batch)


def _summary(name: str, runs: dict[str, Run], every: dict[str, list[float]]) -> dict:
  """Computes times, ratios to the first run of the same round, and memory."""
  reference = next(iter(every))
  return {
    **summarise(every[name]),
    f"to_{reference}": ratio(every[name], every[reference]),
    "temporary_megabytes": 1e-6 * runs[name].temporary_bytes(),
    "compile_seconds": runs[name].compile_seconds,
  }


if __name__ == "__main__":
  main()
