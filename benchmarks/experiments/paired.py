"""Compares every row of a sweep with one of them, seed by seed.

``python -m benchmarks.experiments.paired FOLDER`` reads the sweep's ``results.json``
and writes ``paired.json`` and ``paired.md`` beside it.
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from tabulate import tabulate

from benchmarks.experiments.metric import mean_and_error
from benchmarks.experiments.summary import baseline_of, caption
from benchmarks.experiments.tables import EDGE, rates
from benchmarks.experiments.tuning import is_at_edge

_DRAWS = 10_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Paired:
  """Compare every row of a sweep with one of them, seed by seed."""

  folder: tyro.conf.Positional[Path]
  """The folder of the sweep's results.json."""
  against: str = "maxgnr-0.9"
  """The row that the others are compared with."""


def interval(differences: np.ndarray) -> tuple[float, float]:
  """Computes a 95 % interval of the mean of paired differences by the bootstrap.

  Args:
    differences: [S], of two rows in S seeds. The same draws of seeds are made for any
      two rows.

  Returns:
    The 2.5 % and the 97.5 % quantile of the mean over seeds that are drawn again with
    replacement. With ten seeds such an interval is a little too narrow.
  """
  size = len(differences)
  drawn = np.random.default_rng(0).integers(size, size=(_DRAWS, size))
  low, high = np.quantile(differences[drawn].mean(1), [0.025, 0.975])
  return float(low), float(high)


def compare(summary: dict[str, Any], against: str) -> dict[str, dict[str, Any]]:
  """Compares the Δm of every row with that of ``against`` and of the baseline.

  Args:
    summary: What :func:`benchmarks.experiments.summary.summarise` makes.
    against: The name of a row.

  Returns:
    Row -> ``delta_m`` (mean over seeds, %), ``delta_m_interval``, ``difference`` (mean
    of this row's Δm minus that of ``against``), ``difference_interval``,
    ``seeds_above`` (seeds in which it is positive), ``learning_rate`` as tables show
    it, and ``at_edge``: whether a chosen rate is the first or the last of those tried.

  Raises:
    ValueError: if there is no such row.
  """
  rows = summary["rows"]
  if against not in rows:
    raise ValueError(
      f"there is no row {against!r}: it must be one of {', '.join(rows)}"
    )
  values = {name: np.array(row["delta_m"]["last"]) for name, row in rows.items()}
  baseline = values[baseline_of(summary)[0]]
  found = {}
  for name, row in rows.items():
    difference = values[name] - values[against]
    found[name] = {
      "delta_m": float(values[name].mean()),
      "delta_m_interval": interval(values[name] - baseline),
      "difference": float(difference.mean()),
      "difference_interval": interval(difference),
      "seeds_above": int((difference > 0).sum()),
      "learning_rate": rates(row),
      "at_edge": _is_at_edge(row),
    }
  return found


def _is_at_edge(row: dict[str, Any]) -> bool:
  """Says so for a row, or for any of its single-task models; also of older results."""
  models = [(row.get("learning_rate"), row["validation"])]
  if "learning_rates" in row:
    tasks = row["learning_rates"]
    models = [(rate, row["validation"][task]) for task, rate in tasks.items()]
  return any(
    is_at_edge({float(key): x for key, x in scores.items()}, float(f"{rate:g}"))
    for rate, scores in models
  )


def markdown(summary: dict[str, Any], against: str) -> str:
  """Formats what :func:`compare` finds, the highest Δm first."""
  found = compare(summary, against)
  baseline, baseline_text = baseline_of(summary)
  seeds = len(summary["rows"][against]["delta_m"]["last"])
  lines = []
  for name, row in sorted(found.items(), key=lambda item: -item[1]["delta_m"]):
    compared = [""] * 3
    if name != against:
      compared = [
        f"{row['difference']:+.1f}",
        _text(row["difference_interval"]),
        f"{row['seeds_above']} of {seeds}",
      ]
    delta_m = mean_and_error(summary["rows"][name]["delta_m"]["last"], 1)
    alone = "" if name == baseline else _text(row["delta_m_interval"])
    rate = row["learning_rate"] + (EDGE if row["at_edge"] else "")
    lines.append([name, delta_m, alone, *compared, rate])
  header = [
    "method",
    "Δm % ↑",
    "95 % interval",
    f"difference to {against}",
    "95 % interval",
    "better in",
    "learning rate",
  ]
  table = tabulate(lines, header, tablefmt="github", disable_numparse=True)
  judged = caption("last", summary["settings"])
  return (
    f"{summary['problem']}; test set, {judged}; {seeds} seeds, intervals by the paired "
    f"bootstrap, that of Δm against {baseline_text}:\n\n{table}\n"
  )


def _text(bounds: tuple[float, float]) -> str:
  return f"{bounds[0]:+.1f} to {bounds[1]:+.1f}"


def main(options: Paired) -> str:
  """Writes both files, and returns the table."""
  summary = json.loads((options.folder / "results.json").read_text())
  text = markdown(summary, options.against)
  found = {"against": options.against, "rows": compare(summary, options.against)}
  (options.folder / "paired.md").write_text(text)
  (options.folder / "paired.json").write_text(json.dumps(found, indent=1) + "\n")
  return text


if __name__ == "__main__":
  try:
    print(main(tyro.cli(Paired)))
  except (ValueError, FileNotFoundError) as error:
    sys.exit(f"python -m benchmarks.experiments.paired: {error}")
