"""Every method on the Gramian against float64, over norms that differ by up to 1e10.

The Gramians are in float32. Near rank one these know the small differences between the
gradients to about 1 % only, which bounds what any method can make of them.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maxgnr_jax import aggregators
from maxgnr_jax.aggregators._gradvac import _vaccinate
from tests.helpers import exact, scales
from tests.helpers.gradient_sequence import projected
from tests.helpers.marks import thorough_but

pytestmark = pytest.mark.usefixtures("quick_compilation")
# Each is a program to compile.
NUM_TASKS = thorough_but([3], [2, 3, 4, 10])
TOLERANCES = {"nearly": 3e-2, "opposite": 1e-3}
KEY, GOAL, BETA, RADIUS, ALPHA, RATE = 7, 0.5, 0.01, 0.5, 2.0, 0.1


@functools.cache
def problems(num_tasks):
  """Kinds, gradients in float64, and their Gramians in float32."""
  kinds, stacks = zip(*scales.battery(num_tasks), strict=True)
  stacks = np.stack(stacks)
  gramians = jnp.asarray(np.einsum("nid,njd->nij", stacks, stacks))
  return kinds, np.float64(stacks), gramians


def weigh(weighting, num_tasks):
  """Pairs of a problem and the weights that a method chooses for it."""
  kinds, stacks, gramians = problems(num_tasks)
  weights = np.float64(jax.jit(jax.vmap(weighting))(gramians))
  assert np.isfinite(weights).all()
  return zip(kinds, stacks, weights, strict=True)


def weigh_gradients(tx, num_tasks):
  """As :func:`weigh`, with the first update of a transformation."""
  kinds, stacks, _ = problems(num_tasks)

  def weights(grads):
    return tx.update(grads, tx.init(grads[0]))[1].weights

  weights = jax.jit(jax.vmap(weights))(jnp.asarray(stacks, jnp.float32))
  return zip(kinds, stacks, np.float64(weights), strict=True)


def assert_near(update, expected, unit, tolerance):
  """Compares updates; where terms cancel, relative to a hundredth of their size."""
  error = np.linalg.norm(update - expected)
  assert error <= tolerance * max(np.linalg.norm(expected), 1e-2 * unit)


def nearly_cancel(jacobian):
  """Whether the sum of the gradients is lost in the rounding errors of the Gramian."""
  terms = np.linalg.norm(jacobian, axis=1).sum()
  return np.linalg.norm(jacobian.sum(0)) < 1e-2 * terms


@pytest.mark.usefixtures("usual_compilation")  # IMTL-G is near its tolerance
@pytest.mark.parametrize("num_tasks", NUM_TASKS)
@pytest.mark.parametrize(
  "name", ["aligned_mtl", "config", "dualproj", "imtl_g", "mgda", "upgrad"]
)
def test_updates_agree_with_the_definition(name, num_tasks):
  weighting = getattr(aggregators, f"{name}_weights")
  for kind, jacobian, weights in weigh(weighting, num_tasks):
    expected, unit = getattr(exact, name)(jacobian)
    assert_near(weights @ jacobian, expected, unit, TOLERANCES.get(kind, 1e-4))


@pytest.mark.parametrize("num_tasks", NUM_TASKS)
@pytest.mark.parametrize("name", ["cagrad", "conicgrad"])
def test_updates_near_the_mean_gain_as_much_as_possible(name, num_tasks):
  weighting = functools.partial(getattr(aggregators, f"{name}_weights"), c=RADIUS)
  for kind, jacobian, weights in weigh(weighting, num_tasks):
    norms, update, mean = exact.norms(jacobian), weights @ jacobian, jacobian.mean(0)
    length, tolerance = np.linalg.norm(mean), TOLERANCES.get(kind, 1e-4)
    if nearly_cancel(jacobian):
      assert np.linalg.norm(update) <= 2e-2 * norms.max()
      continue
    if name == "cagrad":
      distance = np.linalg.norm(update - mean) / (RADIUS * length)
      assert distance == pytest.approx(1, abs=tolerance)
    else:
      assert np.linalg.norm(update) == pytest.approx(length, rel=tolerance)
      assert update @ mean >= (RADIUS - tolerance) * length**2
    if name == "conicgrad" and kind == "opposite":
      assert_near(update, mean, norms.max(), tolerance)  # no other direction is known
      continue
    best = np.min(jacobian @ getattr(exact, name)(jacobian, RADIUS))
    # A rounding error of the update changes gains in proportion to the gradients.
    assert np.min((jacobian @ update - best) / norms) >= -tolerance * length


@pytest.mark.parametrize("num_tasks", NUM_TASKS)
@pytest.mark.parametrize("name", ["fairgrad", "nash_mtl"])
def test_bargains_are_those_of_the_same_weights_up_to_rounding(name, num_tasks):
  alpha = ALPHA if name == "fairgrad" else 1.0

  def weighting(gramian):
    return aggregators.fairgrad_weights(gramian, alpha)

  weighting = aggregators.nash_mtl_weights if name == "nash_mtl" else weighting
  for _, jacobian, weights in weigh(weighting, num_tasks):
    norms, unit = exact.units(jacobian)
    cosine, terms = unit @ unit.T, weights * norms
    demands = weights ** (-1 / alpha) / norms
    # `C a = demand` up to the rounding errors of C and, beside much larger weights, of
    # a: where gradients cancel or a task gains enough from others, no more is known.
    rounding = np.abs(cosine) @ terms + demands / terms * terms.max() / alpha
    assert np.max(np.abs(cosine @ terms - demands) / rounding) < 1e-4


@pytest.mark.parametrize("num_tasks", NUM_TASKS)
@pytest.mark.parametrize("name", ["pcgrad", "gradvac"])
def test_gradients_are_projected_in_the_drawn_orders(name, num_tasks):
  key, size = jax.random.key(KEY), num_tasks
  goal = 0.0 if name == "pcgrad" else GOAL
  draw = functools.partial(jax.random.permutation, x=size)
  orders = np.stack([draw(task_key) for task_key in jax.random.split(key, size)])

  def weighting(gramian):
    if name == "pcgrad":
      return aggregators.pcgrad_weights(gramian, key)
    return _vaccinate(gramian, jnp.full((size, size), GOAL), BETA, key)[0]

  tolerances = TOLERANCES
  if name == "gradvac":  # sines of small angles are known to 1e-3
    tolerances = TOLERANCES | {"opposite": 0.1}
  for kind, jacobian, weights in weigh(weighting, num_tasks):
    expected, unit = exact.vaccinated(jacobian, orders, goal)
    assert_near(weights @ jacobian, expected, unit, tolerances.get(kind, 1e-4))


@pytest.mark.parametrize("num_tasks", NUM_TASKS)
def test_gradient_norm_scaling_knows_the_length_of_the_sum(num_tasks):
  weighting = aggregators.gradient_norm_scaling_weights
  for kind, jacobian, weights in weigh(weighting, num_tasks):
    norms = exact.norms(jacobian)
    if nearly_cancel(jacobian):
      assert np.max(weights * norms) <= 1e-2 * norms.sum()
    else:
      length = np.linalg.norm(jacobian.sum(0))
      tolerance = TOLERANCES.get(kind, 1e-4)
      np.testing.assert_allclose(weights * norms, length, rtol=tolerance)


@pytest.mark.parametrize("num_tasks", NUM_TASKS)
def test_ngdiff_knows_the_norms(num_tasks):
  tx = aggregators.ngdiff([1] * num_tasks)
  for _, jacobian, weights in weigh_gradients(tx, num_tasks):
    np.testing.assert_allclose(weights * exact.norms(jacobian), 1, rtol=1e-5)


@pytest.mark.parametrize("num_tasks", NUM_TASKS)
def test_ntkmtl_knows_the_norms(num_tasks):
  for _, jacobian, weights in weigh(aggregators.ntkmtl_weights, num_tasks):
    lengths = weights * exact.norms(jacobian)
    np.testing.assert_allclose(lengths, np.linalg.norm(jacobian), rtol=1e-4)


@pytest.mark.parametrize("num_tasks", NUM_TASKS)
@pytest.mark.parametrize("name", ["modo", "sdmgrad"])
def test_steps_on_the_simplex_are_those_of_the_algorithm(name, num_tasks):
  # With SDMGrad's default rate of 10, rounding decides where the last step ends.
  rate = {"learning_rate": RATE} if name == "sdmgrad" else {}
  tx = getattr(aggregators, name)(num_tasks=num_tasks, **rate)
  for kind, jacobian, weights in weigh_gradients(tx, num_tasks):
    right = (modo_weights if name == "modo" else sdmgrad_weights)(jacobian)
    unit = exact.norms(jacobian).max()
    tolerance = TOLERANCES.get(kind, 3e-4)
    assert_near(weights @ jacobian, right @ jacobian, unit, tolerance)


def modo_weights(jacobian, gamma=0.1, rho=0.1):
  weights = np.full(len(jacobian), 1 / len(jacobian))
  slope = jacobian @ (weights @ jacobian) + rho * weights
  return projected(weights - gamma * slope)


def sdmgrad_weights(jacobian, direction=0.3, rate=RATE, momentum=0.5, num_steps=20):
  jacobian = jacobian / exact.norms(jacobian).mean()
  mean = weights = np.full(len(jacobian), 1 / len(jacobian))
  velocity = np.zeros(len(jacobian))
  for _ in range(num_steps):
    slope = jacobian @ ((weights + direction * mean) @ jacobian)
    velocity = momentum * velocity + slope
    weights = projected(weights - rate * velocity)
  return (weights + direction * mean) / (1 + direction)


@pytest.mark.parametrize("num_tasks", NUM_TASKS[1:])
def test_krum_selects_a_gradient_with_the_nearest_neighbours(num_tasks):
  for _, jacobian, weights in weigh(aggregators.krum_weights, num_tasks):
    assert sorted(weights)[-2:] == [0, 1]
    differences = jacobian[:, None] - jacobian
    distances = np.sort(np.sum(differences**2, axis=-1), axis=1)
    scores = distances[:, 1 : num_tasks - 1].sum(1)
    chosen = weights.argmax()
    rounding = 1e-5 * np.sum(jacobian[chosen] ** 2)
    assert scores[chosen] <= scores.min() + rounding
