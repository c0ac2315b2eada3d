"""Correlations, tables and figure of the study of groups of tasks."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import rankdata
from tabulate import tabulate

from benchmarks.experiments.figures import task_colour
from benchmarks.experiments.metric import mean_and_error
from benchmarks.experiments.summary import caption
from benchmarks.experiments.tables import EDGE

_DRAWS = 2_000
_MANY = 6  # with more tasks a legend has no room
_ALL = "share that a task retains"
_WITHIN = "share that a task retains, less the task's mean over its groups"
_OF_GROUP = "mean share in a group"
_OF_SIZE = "mean share in a group, less the mean of groups of its size"
_SIZE = "size of the group alone (1 / size)"


def correlations(groups: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
  """Correlates logarithms of shares with changes, over groups and their tasks.

  Args:
    groups: Each with ``retained``, task -> share, and ``change``, task -> % by seed.

  Returns:
    What is correlated with the change -> ``pearson``, ``spearman``, 95 % intervals of
    both, and the number of ``points``. The size of a group, which lowers the share of
    every task, is there for comparison.
  """
  points = [
    (at, task, len(group["tasks"]), share, np.mean(group["change"][task]))
    for at, group in enumerate(groups)
    for task, share in group["retained"].items()
  ]
  at, tasks, size, share, change = map(np.array, zip(*points, strict=True))
  share = np.log(share)

  def centred(values: np.ndarray, within: np.ndarray = tasks) -> np.ndarray:
    return values - np.array([values[within == one].mean() for one in within])

  def of_groups(values: np.ndarray) -> np.ndarray:
    return np.array([values[at == number].mean() for number in range(len(groups))])

  shares, changes, sizes = of_groups(share), of_groups(change), of_groups(size)
  numbers = np.arange(len(groups))
  return {
    _ALL: correlate(share, change, at),
    _WITHIN: correlate(centred(share), centred(change), at),
    _SIZE: correlate(-np.log(size), change, at),
    _OF_GROUP: correlate(shares, changes, numbers),
    _OF_SIZE: correlate(centred(shares, sizes), centred(changes, sizes), numbers),
  }


def correlate(x: np.ndarray, y: np.ndarray, cluster: np.ndarray) -> dict[str, Any]:
  """Computes both correlations, with intervals by the bootstrap over clusters.

  Args:
    x: [N].
    y: [N].
    cluster: [N]. Points of equal numbers are drawn together, because they are not
      independent.
  """
  members = [np.flatnonzero(cluster == number) for number in np.unique(cluster)]
  random = np.random.default_rng(0)
  draws = random.integers(len(members), size=(_DRAWS, len(members)))
  drawn = [np.concatenate([members[at] for at in draw]) for draw in draws]
  found: dict[str, Any] = {"points": len(x), "groups": len(members)}
  kinds: dict[str, Callable] = {"pearson": pearson, "spearman": spearman}
  for name, function in kinds.items():
    found[name] = function(x, y)
    values = [function(x[rows], y[rows]) for rows in drawn]
    finite = [value for value in values if np.isfinite(value)]
    bounds = np.quantile(finite, [0.025, 0.975]) if finite else [np.nan, np.nan]
    found[f"{name}_interval"] = [float(bound) for bound in bounds]
  return found


def pearson(x: np.ndarray, y: np.ndarray) -> float:
  """Computes Pearson's correlation; NaN if one of both is constant."""
  if np.ptp(x) == 0 or np.ptp(y) == 0:
    return float("nan")
  return float(np.corrcoef(x, y)[0, 1])


def spearman(x: np.ndarray, y: np.ndarray) -> float:
  """Computes Spearman's correlation, which is Pearson's of the ranks."""
  return pearson(rankdata(x), rankdata(y))


def markdown(summary: Mapping[str, Any]) -> str:
  """Formats the correlations, the divisions and the groups, the best first."""
  settings = summary["settings"]
  judged = caption("last", settings)
  parts = [
    f"{summary['problem']}; test set, {judged}; {settings['seeds']} seeds. Groups are "
    f"trained by {settings['trained_by']}; the share of its own GNR that a task "
    f"retains in a group is computed from {settings['measured_by']} on all tasks. "
    "Correlations of its logarithm with the change of the task's metrics against "
    "training alone, and 95 % intervals by the bootstrap over groups:",
    _table(
      ["what is correlated with the change", "Pearson", "Spearman", "points"],
      [
        [
          name,
          _with_interval(row, "pearson"),
          _with_interval(row, "spearman"),
          str(row["points"]),
        ]
        for name, row in summary["correlations"].items()
      ],
    ),
    "Divisions of all tasks; a task in no company counts as unchanged:",
    _table(["groups", "mean change % ↑"], _divisions(summary["divisions"])),
    "Groups:",
    _table(
      ["tasks", "retained share (geometric mean)", "mean change % ↑", "learning rate"],
      _groups(summary["groups"]),
    ),
  ]
  return "\n\n".join(parts) + "\n"


def _table(header: list[str], lines: list[list[str]]) -> str:
  return tabulate(lines, header, tablefmt="github", disable_numparse=True)


def _with_interval(row: Mapping[str, Any], name: str) -> str:
  low, high = row[f"{name}_interval"]
  return f"{row[name]:+.2f} ({low:+.2f} to {high:+.2f})"


def _divisions(divisions: Sequence[Mapping[str, Any]]) -> list[list[str]]:
  def text(division: Mapping[str, Any]) -> str:
    return " / ".join(", ".join(group) for group in division["groups"])

  proposed, *others = divisions
  lines = [[f"proposed: {text(proposed)}", mean_and_error(proposed["change"], 1)]]
  means = [float(np.mean(other["change"])) for other in others]
  if others:
    lines.append([f"mean of {len(others)} others", mean_and_error(means, 1)])
  for at in np.argsort(means)[::-1]:
    lines.append([text(others[at]), mean_and_error(others[at]["change"], 1)])
  return lines


def _groups(groups: Sequence[Mapping[str, Any]]) -> list[list[str]]:
  lines = {}
  for group in groups:
    change = np.mean([*group["change"].values()], axis=0).tolist()
    share = np.exp(np.mean(np.log([*group["retained"].values()])))
    rate = f"{group['learning_rate']:g}" + (EDGE if group["at_edge"] else "")
    line = [", ".join(group["tasks"]), f"{share:.3f}", mean_and_error(change, 1), rate]
    lines[tuple(line)] = float(np.mean(change))
  return [list(line) for line in sorted(lines, key=lambda line: -lines[line])]


def draw(summary: Mapping[str, Any], path: Path) -> None:
  """Draws the changes over the shares, of tasks in groups and of whole groups."""
  groups, tasks = summary["groups"], summary["tasks"]
  figure = Figure(figsize=(10, 4.2), layout="constrained")
  left, right = figure.subplots(1, 2, sharey=True)
  for number, task in enumerate(tasks):
    own = [group for group in groups if task in group["tasks"]]
    left.plot(
      [group["retained"][task] for group in own],
      [np.mean(group["change"][task]) for group in own],
      "o",
      color=task_colour(number),
      label=task,
    )
  for size in sorted({len(group["tasks"]) for group in groups}):
    own = [group for group in groups if len(group["tasks"]) == size]
    right.plot(
      [np.exp(np.mean(np.log([*group["retained"].values()]))) for group in own],
      [np.mean([*group["change"].values()]) for group in own],
      "o",
      label=f"{size} tasks",
    )
  for ax, name, title in (
    (left, _ALL, "tasks in groups"),
    (right, _OF_GROUP, "groups"),
  ):
    found = summary["correlations"][name]["spearman"]
    ax.set(xscale="log", xlabel="share of its own GNR that a task retains")
    ax.set_title(f"{title}: Spearman {found:+.2f}", fontsize="medium")
    ax.axhline(0, color="black", ls="--", lw=1)
    ax.grid(alpha=0.3)
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_formatter("{x:g}")
    ax.tick_params(axis="x", which="both", labelsize="x-small")
  right.legend(fontsize="small")
  if len(tasks) <= _MANY:
    left.legend(fontsize="small")
  left.set_ylabel("change % against training alone, test")
  right.set_xlabel("geometric mean of the shares in a group")
  figure.suptitle(summary["problem"], fontsize="medium")
  figure.savefig(path, dpi=100)
