"""Searches for fixed task weights, as a careful person without a method would.

The weights that fall out of it are a row of the table, tuned like the others.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks.experiments.runner import Runner
from benchmarks.experiments.summary import Found
from benchmarks.experiments.tuning import Job, Row, best_of, score_rates
from benchmarks.methods import FIXED_WEIGHTS

_ORDERS = 3  # of magnitude, between the largest and the smallest weight of a draw


def draw(num_tasks: int, number: int) -> list[tuple[float, ...]]:
  """Draws weights that are uniform on a log scale, and sum to 1.

  Args:
    num_tasks: K.
    number: How many draws; fewer are the first ones of more.

  Returns:
    Draws of K weights each, rounded to three digits, so that their names are short.
  """
  exponents = np.random.default_rng(0).uniform(-_ORDERS, 0, size=(number, num_tasks))
  weights = 10**exponents / (10**exponents).sum(1, keepdims=True)
  return [tuple(float(f"{weight:.3g}") for weight in row) for row in weights]


def choose(
  runner: Runner, baseline: Mapping[Row, Found], number: int
) -> tuple[Row, list[dict[str, Any]]]:
  """Chooses the draw that is best on the validation data.

  Each draw is trained with one of the sweep's rates, in turn, and all tuning seeds.

  Args:
    runner: Of the sweep.
    baseline: The rows that Δm is relative to, as the sweep tuned them.
    number: How many draws.

  Returns:
    The row of the best weights, and of each draw ``weights``, ``learning_rate`` and
    ``validation``, its Δm.

  Raises:
    ValueError: if there are no validation data.
  """
  settings, problem = runner.settings, runner.problem
  if not settings.validation:
    raise ValueError(
      f"{FIXED_WEIGHTS} are chosen on validation data, never on the test set: give "
      "--validation 0.1"
    )
  rates = settings.learning_rates
  draws = draw(len(problem.tasks), number)
  rate_of = {
    Row(FIXED_WEIGHTS, weights=weights): rates[at % len(rates)]
    for at, weights in enumerate(draws)
  }
  seeds = range(settings.tuning_seeds)
  grids = {row: tuple(found.scores) or rates for row, found in baseline.items()}
  grids |= {row: (rate,) for row, rate in rate_of.items()}
  jobs = [
    Job(row, rate, seed)
    for row, grid in grids.items()
    for rate in grid
    for seed in seeds
  ]
  results = runner.run(jobs, "fixed weights")
  scores = score_rates(problem, grids, seeds, results)
  tried = [
    {
      "weights": list(row.weights),
      "learning_rate": rate,
      "validation": scores[row][rate],
    }
    for row, rate in rate_of.items()
  ]
  best = best_of({row: scores[row][rate] for row, rate in rate_of.items()})
  return best, tried
