"""Measures the accuracy of ``projected_newton`` by number of steps, and times."""

import functools
import itertools
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.accuracy import battery, reference
from maxgnr_jax import GradientStats, Solver, projected_gradient, projected_newton
from maxgnr_jax._solvers import MOST_STEPS

NUM_TASKS = (2, 3, 5, 10, 20, 40, 64, 100)
NUM_STEPS = (2, 4, 6, 8, 10, 12, 16, 24)
# Solvers whose calls are timed.
TIMED = {
  "projected_newton()": projected_newton(),
  "projected_gradient()": projected_gradient(),
}
# The default, though less than six tasks take 2 K steps.
DEFAULT = MOST_STEPS
# A number of steps is enough if it reaches these shares of the optimum for every K.
ENOUGH = {"one_percent": 0.999, "worst": 0.99}


def measure(num_tasks: int, seeds: int, progress: Callable[[], object]) -> list[dict]:
  """Measures the ratio of achieved to optimal value, for each number of steps."""
  axes = (battery.KINDS, battery.CONDITION_NUMBERS, battery.DECADES)
  found = []
  for case in itertools.product(*axes):
    found.append(_ratios(num_tasks, case, seeds))
    progress()
  shape = (*map(len, axes), len(NUM_STEPS), seeds)
  ratios = np.moveaxis(np.reshape(found, shape), 3, 0)
  return [
    {"tasks": num_tasks, "steps": steps, **_distribution(of_steps)}
    for steps, of_steps in zip(NUM_STEPS, ratios, strict=True)
  ]


def enough(entries: list[dict]) -> int | None:
  """Finds the smallest number of steps that is enough for every K."""
  for steps in NUM_STEPS:
    measured = [entry for entry in entries if entry["steps"] == steps]
    if all(entry[name] >= ENOUGH[name] for name in ENOUGH for entry in measured):
      return steps
  return None


def time_calls(rounds: int, progress: Callable[[], object]) -> list[dict]:
  """Times jitted calls of the solvers in microseconds, by solver and K."""
  cases = list(itertools.product(TIMED, NUM_TASKS))
  calls = [_timed_call(TIMED[solver], num_tasks) for solver, num_tasks in cases]
  seconds = []
  # The calls alternate, so that disturbances affect all alike.
  for _ in range(rounds):
    seconds.append([call() for call in calls])
    progress()
  quartiles = np.percentile(1e6 * np.array(seconds), [25, 50, 75], axis=0)
  return [
    {
      "solver": solver,
      "tasks": num_tasks,
      "median": middle,
      "quartiles": [low, high],
    }
    for (solver, num_tasks), (low, middle, high) in zip(cases, quartiles.T, strict=True)
  ]


def _ratios(num_tasks: int, case: tuple, seeds: int) -> np.ndarray:
  """Computes the ratios of achieved to optimal value, [numbers of steps, seeds]."""
  kind, condition_number, decades = case
  problems = [
    battery.problem(kind, num_tasks, condition_number, decades, seed)
    for seed in range(seeds)
  ]
  optima = [
    reference.smallest_gnr(reference.optimal_weights(*problem), *problem)
    for problem in problems
  ]
  stats = jax.tree.map(lambda *x: jnp.stack(x), *map(battery.gradient_stats, problems))
  reached = [
    list(map(_value, np.asarray(_solve_all(stats, num_steps)), problems))
    for num_steps in NUM_STEPS
  ]
  return np.array(reached) / optima


@functools.partial(jax.jit, static_argnums=1)
def _solve_all(stats: GradientStats, num_steps: int) -> jax.Array:
  return jax.vmap(projected_newton(num_steps).solve)(stats)


def _value(weights: np.ndarray, problem: battery.Problem) -> float:
  return reference.smallest_gnr(weights, *problem)


def _distribution(ratios: np.ndarray) -> dict:
  """Summarises ratios [kinds, condition numbers, decades, seeds]."""
  kind, condition, decades, seed = np.unravel_index(ratios.argmin(), ratios.shape)
  return {
    "problems": ratios.size,
    "median": float(np.median(ratios)),
    "one_percent": float(np.quantile(ratios, 0.01)),
    "worst": float(ratios.min()),
    "best": float(ratios.max()),
    "worst_problem": {
      "kind": battery.KINDS[kind].__name__,
      "condition_number": battery.CONDITION_NUMBERS[condition],
      "decades": battery.DECADES[decades],
      "seed": int(seed),
    },
    "one_percent_by_kind": {
      kind.__name__: float(np.quantile(of_kind, 0.01))
      for kind, of_kind in zip(battery.KINDS, ratios, strict=True)
    },
  }


def _timed_call(solver: Solver, num_tasks: int) -> Callable[[], float]:
  """Makes a function that times a call in seconds, after an untimed warm-up call."""
  solve = jax.jit(solver.solve)
  problem = battery.problem(battery.random_spectrum, num_tasks, 1000, 1, 0)
  stats = battery.gradient_stats(problem)
  solve(stats).block_until_ready()  # compiles

  def call() -> float:
    solve(stats).block_until_ready()  # refills the caches after other calls
    start = time.perf_counter()
    solve(stats).block_until_ready()
    return time.perf_counter() - start

  return call
