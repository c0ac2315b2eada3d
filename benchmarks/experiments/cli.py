"""The commands of every experiment.

``train``, ``sweep`` and ``grouping`` train; ``report``, ``cost`` and ``steadiness`` are
about a finished sweep.
"""

import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tyro

from benchmarks.experiments import tables
from benchmarks.experiments.config import Run, Settings, read_file
from benchmarks.experiments.cost import Cost, cost
from benchmarks.experiments.grouping import Grouping, grouping
from benchmarks.experiments.model import Model
from benchmarks.experiments.problem import Problem
from benchmarks.experiments.report import Report, report, settings_of, text
from benchmarks.experiments.steadiness import Steadiness, steadiness
from benchmarks.experiments.summary import caption, judged_models
from benchmarks.experiments.sweep import Sweep, sweep
from benchmarks.experiments.train import make_trainer, train_with_bar


def commands(settings: type[Settings]) -> dict[str, Any]:
  """Makes the settings classes of all commands for a problem."""
  found: dict[str, Any] = {"steadiness": Steadiness, "cost": Cost, "report": Report}
  for name, kind in {"grouping": Grouping, "sweep": Sweep, "train": Run}.items():
    bases = (settings, kind)
    made = dataclasses.make_dataclass(name, [], bases=bases, frozen=True, kw_only=True)
    made.__doc__ = kind.__doc__
    found = {name: made, **found}
  return found


def main(
  module: str,
  settings: type[Settings],
  make_problem: Callable[[Any], Problem],
  reference: Callable[[Any], tables.Reference | None] = lambda settings: None,
  argv: Sequence[str] | None = None,
) -> None:
  """Runs one command line.

  Args:
    module: The words that are typed after ``python -m`` to come here.
    settings: The problem's settings.
    make_problem: Makes the problem from its settings.
    reference: Returns published numbers for the tables, or None.
    argv: Arguments; default: those of the process.
  """
  of_settings = commands(settings)
  arguments = list(sys.argv[1:] if argv is None else argv)
  try:
    arguments = _with_file(arguments)
    config = tyro.extras.subcommand_cli_from_dict(
      of_settings,
      prog=f"python -m {module}",
      args=arguments,
      sort_subcommands=False,
    )
    if isinstance(config, Report):
      config_of_sweep = settings_of(settings, config.out, config.data)
      model = Model(make_problem(config_of_sweep))
      published = reference(config_of_sweep)
      print(text(report(model, config, published), published))
    elif isinstance(config, Cost | Steadiness):
      of_sweep = settings_of(of_settings["sweep"], config.out, config.data)
      study: Any = cost if isinstance(config, Cost) else steadiness
      model = Model(make_problem(of_sweep))
      print(study(model, config, of_sweep, of_settings["train"]))
    elif isinstance(config, Sweep):
      sweep(Model(make_problem(config)), config, of_settings["train"])
      print(f"Results are in {config.out}; `report` makes tables and figures of them.")
    elif isinstance(config, Grouping):
      print(grouping(Model(make_problem(config)), config, of_settings["train"]))
    else:
      problem = make_problem(config)
      result = train_with_bar(make_trainer(Model(problem), config), config)
      _print_result(problem, result, config)
  except (ValueError, FileNotFoundError) as error:
    sys.exit(f"python -m {module}: {error}")


def _with_file(arguments: list[str]) -> list[str]:
  """Puts flags from ``--config FILE`` before those of the command line, which win."""
  if "--config" not in arguments:
    return arguments
  at = arguments.index("--config")
  if at + 1 == len(arguments):
    raise ValueError("--config must be followed by a file, got nothing")
  path = Path(arguments[at + 1])
  flags = []
  for name, value in read_file(path).items():
    flag = "--" + name.replace("_", "-")
    if isinstance(value, bool):
      flags.append(flag if value else flag.replace("--", "--no-", 1))
    elif isinstance(value, list):
      flags += [flag, *map(str, value)]
    else:
      flags += [flag, str(value)]
  rest = arguments[:at] + arguments[at + 2 :]
  return [*rest[:1], *flags, *rest[1:]]


def _print_result(problem: Problem, result: dict[str, Any], run: Run) -> None:
  settings = {"schedule": run.schedule}
  for judged in judged_models(settings):
    models = caption(judged, settings)
    for split, metrics in result[judged].items():
      print(f"\n{split}, {models}:")
      for metric in problem.metrics:
        print(
          f"  {metric.task} {metric.label}: {metrics[metric.name]:.{metric.places}f}"
        )
  print(f"\nLog, result and model are in {run.out}.")
