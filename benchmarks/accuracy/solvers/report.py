"""Formats the results as Markdown tables."""

from tabulate import tabulate

from benchmarks.accuracy.solvers.steps import TIMED


def table(summary: dict) -> str:
  """Formats the results of all solvers on norms over one decade."""
  found = {
    (entry["solver"], entry["noises"], entry["tasks"]): entry
    for entry in summary["fraction_of_optimum"]
    if entry["decades"] == 1
  }
  optimal = ("projected_newton()", "projected_gradient()")
  rows = []
  for num_tasks in sorted({num_tasks for *_, num_tasks in found}):
    paper = found["steepest_descent()", "ordinary", num_tasks]
    rows.append(
      [
        num_tasks,
        *(
          f"{found[solver, noises, num_tasks]['worst']:.5f}"
          for solver in optimal
          for noises in ("ordinary", "cancelling")
        ),
        f"{paper['mean']:.2f} ± {paper['standard_deviation']:.2f}",
        f"{paper['worst']:.5f}",
      ]
    )
  header = ["K"]
  for solver in optimal:
    header += [f"`{solver}`, worst", "nearly cancelling"]
  header += ["`steepest_descent()`, mean ± standard deviation", "worst"]
  return tabulate(rows, header, tablefmt="github", disable_numparse=True)


def steps(summary: dict) -> str:
  """Formats the 1 % quantile and the worst share of the optimum by K and steps."""
  measured = summary["steps"]
  entries = measured["fraction_of_optimum"]
  found = {(entry["tasks"], entry["steps"]): entry for entry in entries}
  counts = sorted({steps for _, steps in found})
  times = {(entry["solver"], entry["tasks"]): entry for entry in measured["times"]}
  rows = [
    [
      num_tasks,
      *(
        f"{found[num_tasks, count]['one_percent']:.5f}, "
        f"{found[num_tasks, count]['worst']:.5f}"
        for count in counts
      ),
      *(_microseconds(times[solver, num_tasks]) for solver in TIMED),
    ]
    for num_tasks in sorted({num_tasks for num_tasks, _ in found})
  ]
  header = ["K", *(f"{count} steps" for count in counts)]
  header += [f"µs, `{solver}`" for solver in TIMED]
  return tabulate(rows, header, tablefmt="github", disable_numparse=True)


def _microseconds(entry: dict) -> str:
  low, high = entry["quartiles"]
  return f"{entry['median']:.0f} ({low:.0f} to {high:.0f})"


def worst_of_steps(summary: dict) -> dict[int, float]:
  """Finds the worst share of the optimum over all K, by number of steps."""
  worst: dict[int, float] = {}
  for entry in summary["steps"]["fraction_of_optimum"]:
    worst[entry["steps"]] = min(worst.get(entry["steps"], 1.0), entry["worst"])
  return worst
