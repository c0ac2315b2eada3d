"""The benchmark of the solver's number of steps records its worst problem."""

import pytest

from benchmarks.accuracy import battery
from benchmarks.accuracy.solvers import steps
from maxgnr_jax import projected_newton

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture
def few_steps(monkeypatch):
  monkeypatch.setattr(steps, "NUM_STEPS", (3, 30))


def test_the_recorded_worst_problem_can_be_drawn_again(few_steps):
  entries = steps.measure(num_tasks=3, seeds=2, progress=lambda: None)
  assert [entry["steps"] for entry in entries] == [3, 30]
  for entry in entries:
    assert entry["worst"] <= entry["one_percent"] <= entry["median"] <= entry["best"]
    found = entry["worst_problem"]
    problem = battery.problem(
      getattr(battery, found["kind"]),
      3,
      found["condition_number"],
      found["decades"],
      found["seed"],
    )
    solver = projected_newton(entry["steps"])
    weights = solver.solve(battery.gradient_stats(problem))
    ratio = battery.ratio_to_optimum(weights, problem)
    assert ratio == pytest.approx(entry["worst"], rel=1e-4)


def test_enough_steps_is_the_smallest_number_that_is_good_for_every_number_of_tasks(
  few_steps,
):
  def entry(num_steps, one_percent, worst):
    return {"steps": num_steps, "one_percent": one_percent, "worst": worst}

  good, bad = (0.9995, 0.995), (0.9995, 0.985)
  assert steps.enough([entry(3, *good), entry(30, *good)]) == 3
  assert steps.enough([entry(3, *good), entry(3, *bad), entry(30, *good)]) == 30
  assert steps.enough([entry(3, *bad), entry(30, *bad)]) is None
