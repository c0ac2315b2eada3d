"""Compares every row of a sweep with another one, seed by seed.

``report`` compares each with the best other row. ``python -m
benchmarks.experiments.comparison FOLDER --against ROW`` reads the sweep's
``results.json`` and prints the comparison with that row.
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
_FLAT = 1.0  # %, the most by which Δm may rise at the end of flat curves


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
  """Compare every row of a sweep with one of them, seed by seed."""

  folder: tyro.conf.Positional[Path]
  """The folder of the sweep's results.json."""
  against: str | None = None
  """The row that the others are compared with; default: the best other row."""


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


def compare(
  summary: dict[str, Any], against: str | None = None
) -> dict[str, dict[str, Any]]:
  """Compares the Δm of every row with that of another row and of the baseline.

  Args:
    summary: What :func:`benchmarks.experiments.summary.summarise` makes.
    against: The name of a row. Default: the best other row, the baseline not counted.

  Returns:
    Row -> ``delta_m`` (mean over seeds, %), ``delta_m_interval``, ``against`` (the
    other row; None if there is none), ``difference`` (mean of this row's Δm minus the
    other's), ``difference_interval``, ``seeds_above`` (seeds in which it is positive),
    ``change_at_end`` (see the summary; None in older ones), ``learning_rate`` as tables
    show it, and ``at_edge``: whether a chosen rate is the first or the last of those
    tried.

  Raises:
    ValueError: if there is no such row.
  """
  rows = summary["rows"]
  if against is not None and against not in rows:
    raise ValueError(
      f"there is no row {against!r}: it must be one of {', '.join(rows)}"
    )
  values = {name: np.array(row["delta_m"]["last"]) for name, row in rows.items()}
  baseline = baseline_of(summary)[0]
  found = {}
  for name, row in rows.items():
    other = against or _best_other(values, name, baseline)
    with np.errstate(invalid="ignore"):  # of runs that diverged
      difference = values[name] - values[other or name]
      from_baseline = values[name] - values[baseline]
    found[name] = {
      "delta_m": float(values[name].mean()),
      "delta_m_interval": interval(from_baseline),
      "against": other,
      "difference": float(difference.mean()),
      "difference_interval": interval(difference),
      "seeds_above": int((difference > 0).sum()),
      "change_at_end": row.get("change_at_end"),
      "learning_rate": rates(row),
      "at_edge": _is_at_edge(row),
    }
  return found


def _best_other(values: dict[str, np.ndarray], name: str, baseline: str) -> str | None:
  others = {
    other: x.mean() for other, x in values.items() if other not in (name, baseline)
  }
  finite = {other: x for other, x in others.items() if np.isfinite(x)}
  return max(finite, key=finite.__getitem__, default=None)


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


def markdown(summary: dict[str, Any], against: str | None = None) -> str:
  """Formats what :func:`compare` finds, the highest Δm first."""
  found = compare(summary, against)
  baseline, baseline_text = baseline_of(summary)
  seeds = len(summary["rows"][baseline]["delta_m"]["last"])
  lines = []
  by_delta_m = sorted(
    found.items(), key=lambda item: -np.nan_to_num(item[1]["delta_m"], nan=-np.inf)
  )
  for name, row in by_delta_m:
    compared = [""] * 3
    if row["against"] not in (None, name):
      compared = [
        _number(row["difference"]),
        _text(row["difference_interval"]),
        f"{row['seeds_above']} of {seeds}",
      ]
    delta_m = mean_and_error(summary["rows"][name]["delta_m"]["last"], 1)
    alone = "" if name == baseline else _text(row["delta_m_interval"])
    change = row["change_at_end"]
    still = "" if change is None else _number(change) + " (rising)" * (change > _FLAT)
    rate = row["learning_rate"] + (EDGE if row["at_edge"] else "")
    lines.append([name, delta_m, alone, *compared, still, rate])
  header = [
    "method",
    "Δm % ↑",
    "95 % interval",
    f"difference to {against or 'the best other row'}",
    "95 % interval",
    "better in",
    "last fifth",
    "learning rate",
  ]
  table = tabulate(lines, header, tablefmt="github", disable_numparse=True)
  judged = caption("last", summary["settings"])
  return (
    f"{summary['problem']}; test set, {judged}; {seeds} seeds, intervals by the paired "
    f"bootstrap, that of Δm against {baseline_text}; last fifth: what a row gained on "
    f"them in the last fifth of the epochs, rising if above {_FLAT:g}:\n\n{table}"
  )


def _number(value: float) -> str:
  return f"{value:+.1f}" if np.isfinite(value) else ""


def _text(bounds: tuple[float, float]) -> str:
  low, high = bounds
  return f"{low:+.1f} to {high:+.1f}" if np.isfinite(low + high) else ""


def main(options: Comparison) -> str:
  """Reads the results and returns the table."""
  summary = json.loads((options.folder / "results.json").read_text())
  return markdown(summary, options.against)


if __name__ == "__main__":
  try:
    print(main(tyro.cli(Comparison)))
  except (ValueError, FileNotFoundError) as error:
    sys.exit(f"python -m benchmarks.experiments.comparison: {error}")
