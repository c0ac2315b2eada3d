"""Methods that remember gradients or step on the simplex, in NumPy, step by step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from hypothesis import given
from hypothesis import strategies as st
from maxgnr_jax._linalg._simplex import project_on_simplex

from maxgnr_jax import aggregators
from tests.examples import scanned

pytestmark = pytest.mark.usefixtures("quick_compilation")
NUM_TASKS, NUM_STEPS, SIZE = 3, 6, 5
RNG = np.random.default_rng(0)
SCALES = np.array([[0.3], [1.0], [2.0]])
COMMON = RNG.normal(size=(NUM_TASKS, SIZE))
JACOBIANS, INDEPENDENT = SCALES * (
  COMMON + 0.5 * RNG.normal(size=(2, NUM_STEPS, NUM_TASKS, SIZE))
)
LOSSES = RNG.uniform(0.1, 3.0, (NUM_STEPS, NUM_TASKS))
EQUAL = np.full(NUM_TASKS, 1 / NUM_TASKS)


def projected(vector):
  """On the simplex: what is subtracted from all entries is found by bisection."""

  def excess(threshold):
    return np.maximum(vector - threshold, 0).sum() - 1

  threshold = scipy.optimize.brentq(
    excess, vector.min() - 1, vector.max(), xtol=1e-14, rtol=1e-14
  )
  return np.maximum(vector - threshold, 0)


project = jax.jit(project_on_simplex)


@given(
  st.lists(st.floats(-1, 1, width=32), min_size=5, max_size=5),
  st.sampled_from([0.1, 1.0, 10.0, 1e6]),
)
def test_no_point_of_the_simplex_is_nearer_than_the_projection(entries, scale):
  vector = np.float32(scale) * np.array(entries, np.float32)
  weights = np.asarray(project(vector), np.float64)
  assert weights.min() >= 0
  assert weights.sum() == pytest.approx(1, abs=1e-5)
  # The simplex lies in the half-space behind the projection: its corners do. What all
  # entries have in common changes nothing.
  away = (vector - vector.max()) - weights
  assert np.max(away - weights @ away) <= 1e-5 * max(1.0, np.ptp(vector))


def test_the_projection_does_not_lose_weights_beside_a_large_common_part():
  for offset in (0.0, 1e4, -1e10):
    vector = jnp.float32([0.25, 0.5, 0.0]) + jnp.float32(offset)
    expected = projected(np.asarray(vector - vector.max(), np.float64))
    np.testing.assert_allclose(project_on_simplex(vector), expected, rtol=1e-5)


def assert_steps(tx, weights, updates, **extra_args):
  actual_weights, actual_updates, state = scanned(tx, JACOBIANS, **extra_args)
  np.testing.assert_allclose(actual_weights, weights, rtol=1e-8)
  np.testing.assert_allclose(actual_updates, updates, rtol=1e-8, atol=1e-10)
  return state


def test_excess_mtl_multiplies_weights_by_exponentials_of_the_risks(float64):
  w, squares, weights = EQUAL, 0, []
  for step, grads in enumerate(JACOBIANS):
    squares = squares + grads**2
    # The diagonal of the Hessian as AdaGrad sees it: gᵀ H^-1 g.
    risks = np.sum(grads**2 / np.sqrt(squares), axis=1)
    if step == 0:
      first = risks
    else:
      w = w * np.exp(0.7 * risks / first)
      w = w / w.sum()
    weights.append(w)
  updates = np.einsum("tk,tkd->td", weights, JACOBIANS)
  assert_steps(aggregators.excess_mtl(0.7, num_tasks=NUM_TASKS), weights, updates)


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_db_mtl_sums_averaged_gradients_of_logarithms_of_equal_length(decay, float64):
  average, weights, updates = np.zeros_like(COMMON), [], []
  for step, (grads, losses) in enumerate(zip(JACOBIANS, LOSSES, strict=True), start=1):
    beta = 0.9 / step**decay
    average = beta * average + (1 - beta) * grads / losses[:, None]
    lengths = np.linalg.norm(average, axis=1)
    scales = lengths.max() / lengths
    updates.append(scales @ average)
    weights.append(scales / losses)
  tx = aggregators.db_mtl(0.9, decay, num_tasks=NUM_TASKS)
  actual_weights, actual_updates, state = scanned(tx, JACOBIANS, losses=LOSSES)
  # The library adds 1e-8 to the losses, as the authors do.
  np.testing.assert_allclose(actual_weights, weights, rtol=1e-6)
  np.testing.assert_allclose(actual_updates, updates, rtol=1e-6)
  np.testing.assert_allclose(state.memory["average"], average, rtol=1e-6)


@pytest.mark.parametrize(
  "kwargs",
  [
    {"beta": 0.5, "gamma": 0.3},
    {"beta": 0.8, "gamma": 2.0, "beta_decay": 0.0, "gamma_decay": 1.0, "rho": 0.2},
  ],
)
def test_moco_steps_towards_the_shortest_vector_of_the_averages(kwargs, float64):
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


@pytest.mark.parametrize("second", [INDEPENDENT, None], ids=["two batches", "one"])
@pytest.mark.parametrize(("gamma", "rho"), [(0.1, 0.1), (0.5, 0.0)])
def test_modo_steps_by_the_products_of_two_batches(second, gamma, rho, float64):
  others = JACOBIANS if second is None else second
  w, weights = EQUAL, []
  for grads, other in zip(JACOBIANS, others, strict=True):
    w = projected(w - gamma * (grads @ other.T @ w + rho * w))
    weights.append(w)
  updates = np.einsum("tk,tkd->td", weights, (JACOBIANS + others) / 2)
  extra_args = {} if second is None else {"independent_grads": second}
  tx = aggregators.modo(gamma, rho, num_tasks=NUM_TASKS)
  assert_steps(tx, weights, updates, **extra_args)


@pytest.mark.parametrize("second", [INDEPENDENT, None], ids=["two batches", "one"])
def test_sdmgrad_descends_on_the_simplex_drawn_to_the_mean(second, float64):
  others = JACOBIANS if second is None else second
  direction, rate, momentum, num_steps = 0.6, 0.2, 0.5, 4
  w, weights = EQUAL, []
  for grads, other in zip(JACOBIANS, others, strict=True):
    products = grads @ other.T
    # Gradients in units of their mean length, if both batches have it.
    products = products / np.mean(np.sqrt(np.maximum(np.diag(products), 0))) ** 2
    velocity = np.zeros(NUM_TASKS)
    for _ in range(num_steps):
      velocity = momentum * velocity + products @ (w + direction * EQUAL)
      w = projected(w - rate * velocity)
    weights.append((w + direction * EQUAL) / (1 + direction))
  updates = np.einsum("tk,tkd->td", weights, (JACOBIANS + others) / 2)
  tx = aggregators.sdmgrad(
    direction,
    learning_rate=rate,
    momentum=momentum,
    num_steps=num_steps,
    num_tasks=NUM_TASKS,
  )
  extra_args = {} if second is None else {"independent_grads": second}
  state = assert_steps(tx, weights, updates, **extra_args)
  np.testing.assert_allclose(state.memory["simplex_weights"], w, rtol=1e-8)


SHARED = {
  "db_mtl": aggregators.db_mtl,
  "excess_mtl": lambda **kwargs: aggregators.excess_mtl(0.7, **kwargs),
  "moco": aggregators.moco,
  "modo": aggregators.modo,
  "sdmgrad": aggregators.sdmgrad,
}


@pytest.mark.parametrize("name", SHARED)
def test_what_is_shared_is_measured_and_the_rest_gets_the_weighted_gradient(name):
  def split(jacobian):
    return {
      "trunk": jnp.asarray(jacobian, jnp.float32),
      "head": 100 * jnp.asarray(jacobian[..., :2], jnp.float32),
    }

  shared = {"trunk": True, "head": False}
  partly = SHARED[name](num_tasks=NUM_TASKS, shared=shared)
  alone = SHARED[name](num_tasks=NUM_TASKS)
  params = {"trunk": jnp.zeros(SIZE), "head": jnp.zeros(2)}
  state, state_alone = partly.init(params), alone.init(params["trunk"])
  for step in range(3):
    grads, others = split(JACOBIANS[step]), split(INDEPENDENT[step])
    losses = jnp.asarray(LOSSES[step], jnp.float32)
    updates, state = partly.update(
      grads, state, params, losses=losses, independent_grads=others
    )
    expected, state_alone = alone.update(
      grads["trunk"], state_alone, losses=losses, independent_grads=others["trunk"]
    )
    np.testing.assert_allclose(state.weights, state_alone.weights, rtol=1e-5)
    np.testing.assert_allclose(updates["trunk"], expected, rtol=1e-5, atol=1e-6)
    head, weights = grads["head"], state.weights
    if name in ("modo", "sdmgrad"):
      head = (head + others["head"]) / 2
    if name == "db_mtl":
      weights = 1 / losses  # the heads' update is that of the logarithms
    expected = np.asarray(weights) @ np.asarray(head)
    np.testing.assert_allclose(updates["head"], expected, rtol=1e-4, atol=1e-3)
