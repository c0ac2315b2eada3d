"""Writes the tables and the picture of the results where they are shown.

``python -m benchmarks.evidence.page`` reads ``benchmarks/results`` and replaces what
lies between ``<!-- NAME -->`` and ``<!-- end of NAME -->`` in ``docs/results.md``,
``docs/speed.md`` and ``README.md``.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import rankdata
from tabulate import tabulate

from benchmarks.experiments import comparison, figures
from benchmarks.experiments.rows import expand
from benchmarks.experiments.summary import baseline_of
from benchmarks.experiments.sweep import read_summary
from benchmarks.experiments.tables import EDGE
from benchmarks.speed import report

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
PAGES = (ROOT / "docs" / "results.md", ROOT / "docs" / "speed.md", ROOT / "README.md")
# Name of a summary -> its problems, whose rows are ranked together.
SUMMARIES = {
  "summary": ("digits", "fashion", "tox21", "scm20d"),
  "equations": ("helmholtz", "klein-gordon", "burgers"),
}
ALONE = ("scenes",)  # problems that have too few rows for a summary
# The rows of the README's table.
FEW = (
  "maxgnr-0.9-sketch-127-smoothed-0.9-own-heads",
  "maxgnr-0.9-smoothed-0.9-own-heads",
  "maxgnr-0.9-smoothed-0.9",
  "maxgnr-0.9",
  "slaw",
  "imtl-g-smoothed-0.9-own-heads",
  "uncertainty",
  "equal-weights",
)
# Summary -> rows of its problems' tables and pictures.
_SHOWN = {"summary": expand(["evidence"]), "equations": expand(["equations"])}
_DRAWN = 12  # rows of a summary's picture, besides those of the README's table

# Problem -> what `sweep` found, and row -> what `comparison.compare` made of it.
Results = Mapping[str, dict[str, Any]]
Compared = Mapping[str, dict[str, dict[str, Any]]]


class Summary(NamedTuple):
  """Problems whose rows are ranked together."""

  results: Results
  compared: Compared
  ranked: Sequence[str]


def read(problems: Sequence[str]) -> dict[str, dict[str, Any]]:
  """Reads the committed results of some problems, or of measurements of speed."""
  return {problem: read_summary(RESULTS / problem) for problem in problems}


def only(summary: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
  """Returns the results of some rows, and of the one that Δm is relative to."""
  kept = {baseline_of(summary)[0], *names}
  rows = {name: row for name, row in summary["rows"].items() if name in kept}
  return {**summary, "rows": rows}


def common_rows(results: Results) -> list[str]:
  """Lists the rows that every problem has, which are ranked: no single-task models."""
  every = [list(summary["rows"]) for summary in results.values()]
  return [
    name
    for name in every[0]
    if name != "single-task" and all(name in rows for rows in every)
  ]


def compared(results: Results) -> Compared:
  """Compares the common rows with the best other one, problem by problem."""
  names = common_rows(results)
  return {
    problem: comparison.compare(only(summary, names))
    for problem, summary in results.items()
  }


def mean_ranks(found: Compared, names: Sequence[str]) -> dict[str, float]:
  """Computes the mean over problems of each row's rank by Δm; 1 is the best."""
  ranks = [
    rankdata([-np.nan_to_num(rows[name]["delta_m"], nan=-np.inf) for name in names])
    for rows in found.values()
  ]
  return dict(zip(names, np.mean(ranks, axis=0).tolist(), strict=True))


def summary_table(found: Compared, names: Sequence[str], ranked: Sequence[str]) -> str:
  """Formats some of the ranked rows, the best mean rank first, the best Δm in bold."""
  ranks = mean_ranks(found, ranked)
  best = {
    problem: max(np.nan_to_num(rows[name]["delta_m"], nan=-np.inf) for name in ranked)
    for problem, rows in found.items()
  }
  lines = []
  for name in sorted(names, key=ranks.__getitem__):
    cells = [
      _cell(rows[name], rows[name]["delta_m"] == best[problem])
      for problem, rows in found.items()
    ]
    lines.append([name, f"{ranks[name]:.1f}", *cells])
  header = ["method", "mean rank ↓", *(f"{problem} ↑" for problem in found)]
  return tabulate(lines, header, tablefmt="github", disable_numparse=True)


def _cell(row: Mapping[str, Any], best: bool) -> str:
  value = row["delta_m"]
  if not np.isfinite(value):
    return "diverged"
  low, high = row["delta_m_interval"]
  text = f"**{value:.1f}**" if best else f"{value:.1f}"
  return f"{text} ({low:.1f} to {high:.1f})" + EDGE * row["at_edge"]


def draw(results: Results, found: Compared, ranked: Sequence[str], path: Path) -> None:
  """Draws Δm and its interval, a panel per problem, the best mean rank on top."""
  ranks = mean_ranks(found, ranked)
  by_rank = sorted(ranked, key=ranks.__getitem__)
  others = [name for name in FEW if name in ranked and name not in by_rank[:_DRAWN]]
  names = [*by_rank[:_DRAWN], *others][::-1]
  columns = min(4, len(found))
  rows = -(-len(found) // columns)
  size = (3 + 2.4 * columns, 0.6 + (0.5 + 0.2 * len(names)) * rows)
  figure = Figure(figsize=size, layout="constrained")
  axes = figure.subplots(rows, columns, sharey=True, squeeze=False)
  for ax in axes.flat[len(found) :]:
    ax.set_axis_off()
  at = np.arange(len(names))
  for ax, (problem, of_row) in zip(axes.flat, found.items(), strict=False):
    for row, name in zip(at, names, strict=True):
      value, interval = of_row[name]["delta_m"], of_row[name]["delta_m_interval"]
      colour = "tab:red" if name.startswith("maxgnr") else "tab:blue"
      ax.plot(interval, [row, row], color=colour, lw=2)
      ax.plot(value, row, "o", color=colour, ms=4)
    ax.axvline(0, color="black", ls="--", lw=1)
    against = baseline_of(results[problem])[1]
    ax.set_title(f"{problem}, Δm % against\n{against}", fontsize="small")
    ax.set_yticks(at, names, fontsize="small")
    ax.grid(alpha=0.3)
  figure.savefig(path, dpi=100)


def summaries() -> dict[str, Summary]:
  """Reads the problems of each summary, and compares their rows."""
  read_all = {name: read(problems) for name, problems in SUMMARIES.items()}
  return {
    name: Summary(results, compared(results), common_rows(results))
    for name, results in read_all.items()
  }


def shown(of_problems: Mapping[str, Summary]) -> dict[str, dict[str, Any]]:
  """Returns the results of each problem, with the rows of its table and picture."""
  of_summaries = {
    problem: only(summary, _SHOWN[name])
    for name, made in of_problems.items()
    for problem, summary in made.results.items()
  }
  return of_summaries | read(ALONE)


def blocks(of_problems: Mapping[str, Summary]) -> dict[str, str]:
  """Makes the text of every block: of speed, each summary, and each problem."""
  update, ways, refresh = read(("speed", "speed-ways", "speed-refresh")).values()
  texts = {
    "cost": report.in_short(ways),
    "update": report.table(update),
    "ways": report.ways(ways),
    "refresh": report.refresh(refresh),
  }
  for name, (_, found, ranked) in of_problems.items():
    texts[name] = summary_table(found, ranked, ranked)
    if set(FEW) <= set(ranked):
      texts["few"] = summary_table(found, FEW, ranked)
  for problem, summary in shown(of_problems).items():
    texts[problem] = comparison.markdown(summary)
  return texts


def filled(page: str, texts: Mapping[str, str]) -> str:
  """Returns a page with the text of every block that it has."""
  for name, text in texts.items():
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    before, found, rest = page.partition(begin)
    if found:
      page = f"{before}{begin}\n{text}\n{end}{rest.partition(end)[2]}"
  return page


def main() -> None:
  """Rewrites the pages and draws the pictures."""
  of_problems = summaries()
  texts = blocks(of_problems)
  for path in PAGES:
    path.write_text(filled(path.read_text(), texts))
  for name, made in of_problems.items():
    draw(*made, RESULTS / f"{name}.png")
  for problem, summary in shown(of_problems).items():
    figures.delta_m(summary, "last", RESULTS / problem / "delta_m.png")


if __name__ == "__main__":
  main()
