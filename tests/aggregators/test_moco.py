"""MoCo beside its formula in NumPy, step by step."""

import functools

import numpy as np
import pytest

from maxgnr_jax import aggregators
from tests.helpers import inactive
from tests.helpers.gradient_sequence import (
  COMMON,
  EQUAL,
  JACOBIANS,
  NUM_TASKS,
  assert_steps,
  projected,
)

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.mark.parametrize(
  "kwargs",
  [
    {"beta": 0.5, "gamma": 0.3},
    {"beta": 0.8, "gamma": 2.0, "beta_decay": 0.0, "gamma_decay": 1.0, "rho": 0.2},
  ],
)
def test_moco_steps_towards_the_shortest_combination_of_its_averages(kwargs, float64):
  beta_decay, gamma_decay = (kwargs.get(f"{n}_decay", 0.5) for n in ("beta", "gamma"))
  average, w, weights, updates = np.zeros_like(COMMON), EQUAL, [], []
  for step, grads in enumerate(JACOBIANS, start=1):
    beta, gamma = kwargs["beta"] / step**beta_decay, kwargs["gamma"] / step**gamma_decay
    average = average - beta * (average - grads)
    slope = average @ (average.T @ w) + kwargs.get("rho", 0.0) * w
    w = projected(w - gamma * slope)
    weights.append(w)
    updates.append(w @ average)
  assert np.min(weights) == 0 or kwargs["gamma"] < 1
  assert_steps(aggregators.moco(**kwargs, num_tasks=NUM_TASKS), weights, updates)


def test_the_average_of_a_late_task_begins_with_its_first_gradient():
  make = functools.partial(aggregators.moco, 0.5)
  _, state = inactive.run(make, inactive.LATE)
  expected = 0.5 * inactive.GRADS[2, 0]
  np.testing.assert_allclose(state.memory["average"][2, 0], expected, rtol=1e-6)
