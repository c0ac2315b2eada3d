"""Makes results again: ``python -m benchmarks.evidence [PROBLEM ...]``.

Sweeps with the settings in this folder, into ``out/evidence``, where runs that are
there already are not repeated, and commits to ``benchmarks/results`` what the page
shows. Some problems need files in ``data/``, see docs/results.md.
"""

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

from benchmarks.evidence import page
from benchmarks.experiments import __main__ as experiments
from benchmarks.experiments.config import read_file
from benchmarks.experiments.problems.tox21 import logistic

_SETTINGS = Path(__file__).parent
PROBLEMS = sorted({path.stem for path in _SETTINGS.glob("*.toml")} - {"paper"})
_OUT = Path("out/evidence")
_KEPT = ("results.json", "table.md")
# Problem -> pictures that are kept besides Δm: the README's, the paper's notebook's.
_PICTURES = {"digits": ("gnr_over_training.png",), "scenes": ("gnr.png", "weights.png")}


def run(problem: str) -> None:
  """Sweeps a problem, and replaces its committed results."""
  settings, out = _SETTINGS / f"{problem}.toml", _OUT / problem
  to_page = page.RESULTS / problem
  to_page.mkdir(exist_ok=True)
  experiments.main([problem, "sweep", "--config", str(settings), "--out", str(out)])
  data = read_file(settings).get("data")
  of_data = ["--data", data] if data else []
  if problem == "tox21":
    logistic.main(["--out", str(out), *of_data])
    shutil.copy(out / logistic.LOGISTIC, to_page / logistic.LOGISTIC)
  to = out / "report"
  experiments.main([problem, "report", "--out", str(out), "--to", str(to), *of_data])
  for name in (*_KEPT, *_PICTURES.get(problem, ())):
    shutil.copy(to / name, to_page / name)


def main(argv: Sequence[str] | None = None) -> None:
  """Runs some problems, then fills the pages."""
  parser = argparse.ArgumentParser(
    prog="python -m benchmarks.evidence", description=__doc__
  )
  parser.add_argument(
    "problems",
    nargs="*",
    metavar="PROBLEM",
    help=f"all if none is named: {', '.join(PROBLEMS)}",
  )
  problems = parser.parse_args(argv).problems
  for problem in problems:
    if problem not in PROBLEMS:
      parser.error(f"PROBLEM must be among {', '.join(PROBLEMS)}, got {problem}")
  for problem in problems or PROBLEMS:
    run(problem)
  page.main()


if __name__ == "__main__":
  main()
