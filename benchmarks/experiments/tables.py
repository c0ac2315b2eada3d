"""Formats the paper's tables in Markdown and LaTeX."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from tabulate import tabulate

from benchmarks.experiments.metric import Metric, mean_and_error

_ARROW = {1: "↑", -1: "↓"}
# In this order: the commands themselves have underscores.
_LATEX = {
  "_": r"\_",
  "±": r"$\pm$",
  "↑": r"$\uparrow$",
  "↓": r"$\downarrow$",
  "Δm": r"$\Delta_m$",
  "%": r"\%",
}
EDGE = " (edge)"  # after the rate of a row that is not tuned to the end
_MANY = 8  # metrics of one kind are no longer listed, but summed up


class Reference(NamedTuple):
  """Published numbers of others.

  Attributes:
    title: Their source and data.
    rows: Method -> metric's name -> value.
  """

  title: str
  rows: Mapping[str, Mapping[str, float]]


class _Column(NamedTuple):
  heading: str
  sign: int
  places: int
  values: Callable[[dict[str, Any]], list[float]]  # of a row, by seed


def markdown(summary: dict, judged: str, reference: Reference | None = None) -> str:
  """Formats a Markdown table of mean ± standard error, the best two in bold.

  Args:
    summary: Result of :func:`benchmarks.experiments.summary.summarise`.
    judged: ``"last"`` or ``"best"``.
    reference: Published numbers, for further rows, marked as such.
  """
  return _table(summary, judged, reference, "github", "**{}**".format, str)


def latex(summary: dict, judged: str, reference: Reference | None = None) -> str:
  """Formats the same table for LaTeX, with the rules of the package booktabs."""

  def escape(text: str) -> str:
    for symbol, command in _LATEX.items():
      text = text.replace(symbol, command)
    return text

  bold = r"\textbf{{{}}}".format
  table = _table(summary, judged, reference, "latex_raw", bold, escape)
  for rule in ("toprule", "midrule", "bottomrule"):
    table = table.replace(r"\hline", rf"\{rule}", 1)
  return table


def _table(summary, judged, reference, form, bold, escape) -> str:
  columns = _columns(summary, judged)
  cells = {
    name: [column.values(row) for column in columns]
    for name, row in summary["rows"].items()
  }
  means = np.array(
    [[np.mean(v) if v else np.nan for v in row] for row in cells.values()]
  )
  best = [_best_two(c.sign, x) for c, x in zip(columns, means.T, strict=True)]
  chosen = [
    rates(row) + (EDGE if row.get("at_edge") else "")  # older results do not say it
    for row in summary["rows"].values()
  ]
  table = []
  for index, (name, values) in enumerate(cells.items()):
    texts = [
      bold(text) if index in best[at] else text
      for at, (column, seeds) in enumerate(zip(columns, values, strict=True))
      for text in [mean_and_error(seeds, column.places)]
    ]
    table.append([name, *texts, chosen[index]])
  if reference is not None:
    *of_metrics, _, _ = columns
    for name, published in reference.rows.items():
      row = {"test": {judged: {metric: [x] for metric, x in published.items()}}}
      texts = [mean_and_error(c.values(row), c.places) for c in of_metrics]
      table.append([f"{reference.title}: {name}", *texts, "", "", ""])
  headings = [f"{c.heading} {_ARROW[c.sign]}" for c in columns]
  header = [escape(h) for h in ["method", *headings, "learning rate"]]
  rows = [[escape(cell) for cell in row] for row in table]
  return tabulate(rows, header, tablefmt=form, disable_numparse=True)


def _columns(summary: dict, judged: str) -> list[_Column]:
  metrics = [Metric(**metric) for metric in summary["metrics"]]
  shown = [metric for metric in metrics if metric.shown]

  def of_metric(name: str):
    return lambda row: row["test"][judged].get(name, [])

  def over_tasks(names: list[str], reduce):
    return lambda row: [
      float(reduce(seed))
      for seed in zip(*(row["test"][judged][name] for name in names), strict=True)
    ]

  if len(shown) > _MANY and len({metric.label for metric in shown}) == 1:
    names, (first, *_) = [metric.name for metric in shown], shown
    worst = max if first.sign < 0 else min
    columns = [
      _Column(
        f"mean {first.label}", first.sign, first.places, over_tasks(names, np.mean)
      ),
      _Column(
        f"worst {first.label}", first.sign, first.places, over_tasks(names, worst)
      ),
    ]
  else:
    columns = [
      _Column(f"{m.task} {m.label}", m.sign, m.places, of_metric(m.name)) for m in shown
    ]
  return [
    *columns,
    _Column("Δm %", 1, 1, lambda row: row["delta_m"][judged]),
    _Column("mean rank", -1, 1, lambda row: [row["mean_rank"][judged]]),
  ]


def _best_two(sign: int, means: np.ndarray) -> set[int]:
  """Finds the rows with the best two values, and those that tie with the second."""
  score = sign * means
  finite = np.sort(score[np.isfinite(score)])
  if len(finite) < 3:
    return set()
  return set(np.flatnonzero(score >= finite[-2]).tolist())


def rates(row: dict[str, Any]) -> str:
  """Formats the learning rate of a row, or those of its single-task models."""
  if "learning_rate" in row:
    return f"{row['learning_rate']:g}"
  return ", ".join(f"{rate:g}" for rate in sorted(set(row["learning_rates"].values())))
