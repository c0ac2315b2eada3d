"""Formats the results as Markdown tables."""

from tabulate import tabulate


def table(summary: dict) -> str:
  """Formats the results of both solvers on norms over one decade."""
  found = {
    (entry["solver"], entry["tasks"]): entry
    for entry in summary["fraction_of_optimum"]
    if entry["decades"] == 1
  }
  rows = [
    [
      num_tasks,
      f"{found['projected_gradient()', num_tasks]['worst']:.5f}",
      f"{found['steepest_descent()', num_tasks]['mean']:.2f} "
      f"± {found['steepest_descent()', num_tasks]['standard_deviation']:.2f}",
      f"{found['steepest_descent()', num_tasks]['worst']:.5f}",
    ]
    for num_tasks in sorted({num_tasks for _, num_tasks in found})
  ]
  header = [
    "K",
    "`projected_gradient()`, worst",
    "`steepest_descent()`, mean ± standard deviation",
    "worst",
  ]
  return tabulate(rows, header, tablefmt="github", disable_numparse=True)


def steps(summary: dict) -> str:
  """Formats the 1 % quantile and the worst share of the optimum by K and steps."""
  entries = summary["steps"]["fraction_of_optimum"]
  found = {(entry["tasks"], entry["steps"]): entry for entry in entries}
  counts = sorted({steps for _, steps in found})
  rows = [
    [
      entry["tasks"],
      *(
        f"{found[entry['tasks'], count]['one_percent']:.5f}, "
        f"{found[entry['tasks'], count]['worst']:.5f}"
        for count in counts
      ),
      f"{entry['median']:.0f} ({entry['quartiles'][0]:.0f} to "
      f"{entry['quartiles'][1]:.0f})",
    ]
    for entry in summary["steps"]["microseconds"]
  ]
  header = ["K", *(f"{count} steps" for count in counts)]
  header += [f"µs with {summary['steps']['default']}"]
  return tabulate(rows, header, tablefmt="github", disable_numparse=True)


def worst_of_steps(summary: dict) -> dict[int, float]:
  """Finds the worst share of the optimum over all K, by number of steps."""
  worst: dict[int, float] = {}
  for entry in summary["steps"]["fraction_of_optimum"]:
    worst[entry["steps"]] = min(worst.get(entry["steps"], 1.0), entry["worst"])
  return worst
