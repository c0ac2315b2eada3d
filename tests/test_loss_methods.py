"""Methods that watch the losses, beside their formulas in NumPy, step by step."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize

from maxgnr_jax import aggregators
from tests.examples import scanned

pytestmark = pytest.mark.usefixtures("quick_compilation", "float64")
NUM_TASKS, NUM_STEPS = 3, 9
RNG = np.random.default_rng(0)
LOSSES = np.array([0.1, 1.0, 20.0]) * np.exp(
  -np.outer(range(NUM_STEPS), [0.3, 0.1, 0.02])
  + 0.2 * RNG.normal(size=(NUM_STEPS, NUM_TASKS))
)
JACOBIANS = RNG.normal(size=(NUM_STEPS, NUM_TASKS, 4)) * [[[0.1], [1.0], [5.0]]]


def assert_weights(tx, expected, **extra_args):
  """Compares the weights of all steps, and the updates with their weighted sums."""
  extra_args = {"losses": LOSSES} | extra_args
  weights, updates, _ = scanned(tx, JACOBIANS, **extra_args)
  np.testing.assert_allclose(weights, expected, rtol=1e-9)
  sums = np.einsum("tk,tkd->td", np.array(expected), JACOBIANS)
  np.testing.assert_allclose(updates, sums, rtol=1e-9, atol=1e-12)


def softmax(values):
  return np.exp(values) / np.sum(np.exp(values))


@pytest.mark.parametrize("steps_per_epoch", [1, 3, 4])
@pytest.mark.parametrize("temperature", [2.0, 0.3])
def test_dwa_compares_the_mean_losses_of_the_last_two_epochs(
  steps_per_epoch, temperature
):
  expected = []
  for step in range(NUM_STEPS):
    begin = step // steps_per_epoch * steps_per_epoch
    last = LOSSES[begin - steps_per_epoch : begin]
    before = LOSSES[begin - 2 * steps_per_epoch : begin - steps_per_epoch]
    rate = np.ones(NUM_TASKS)
    if begin >= 2 * steps_per_epoch:
      rate = last.mean(0) / before.mean(0)
    expected.append(NUM_TASKS * softmax(rate / temperature))
  assert_weights(
    aggregators.dwa(steps_per_epoch, temperature, num_tasks=NUM_TASKS), expected
  )


def descend(slope, rate):
  """Gradient descent from 0; before each step, where it is."""
  s = np.zeros(NUM_TASKS)
  for losses in LOSSES:
    yield s.copy()
    s -= rate * slope(s, losses)


def adam(slope, rate, b1=0.9, b2=0.999, eps=1e-8):
  """Kingma and Ba, Algorithm 1."""
  s, m, v = (np.zeros(NUM_TASKS) for _ in range(3))
  for step, losses in enumerate(LOSSES, start=1):
    yield s.copy()
    g = slope(s, losses)
    m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
    s -= rate * m / (1 - b1**step) / (np.sqrt(v / (1 - b2**step)) + eps)


OPTIMIZERS = [(optax.sgd, descend), (optax.adam, adam)]


@pytest.mark.parametrize(("optimizer", "by_hand"), OPTIMIZERS, ids=["sgd", "adam"])
def test_uncertainty_descends_on_its_log_variances(
  optimizer, by_hand, standard_promotion
):
  # ½ exp(-s) L + ½ s
  steps = by_hand(lambda s, losses: 0.5 - 0.5 * np.exp(-s) * losses, 0.05)
  tx = aggregators.uncertainty(optimizer(0.05), num_tasks=NUM_TASKS)
  assert_weights(tx, [0.5 * np.exp(-s) for s in steps])


@pytest.mark.parametrize(("optimizer", "by_hand"), OPTIMIZERS, ids=["sgd", "adam"])
def test_imtl_l_descends_on_its_log_scales(optimizer, by_hand, standard_promotion):
  # exp(s) L - s
  steps = by_hand(lambda s, losses: np.exp(s) * losses - 1, 0.03)
  tx = aggregators.imtl_l(optimizer(0.03), num_tasks=NUM_TASKS)
  assert_weights(tx, [np.exp(s) for s in steps])


@pytest.mark.parametrize(
  ("make", "name", "sign"),
  [(aggregators.uncertainty, "log_variance", 1), (aggregators.imtl_l, "log_scale", -1)],
)
def test_what_is_learned_ends_at_the_losses_logarithm(make, name, sign):
  tx = make(optax.sgd(0.2), num_tasks=NUM_TASKS)
  losses = np.tile([0.5, 1.0, 3.0], (300, 1))
  _, _, state = scanned(tx, np.ones((300, NUM_TASKS, 1)), losses=losses)
  np.testing.assert_allclose(state.memory[name], sign * np.log(losses[0]), atol=1e-6)


@pytest.mark.parametrize("alpha", [0.0, 1.5])
@pytest.mark.parametrize("rate", [0.01, 0.5])
def test_gradnorm_descends_on_the_distance_to_the_wanted_norms(alpha, rate):
  w, expected = np.ones(NUM_TASKS), []
  norms = np.linalg.norm(JACOBIANS, axis=2)
  for losses, norm in zip(LOSSES, norms, strict=True):
    expected.append(w)
    remaining = losses / LOSSES[0]
    wanted = np.mean(w * norm) * (remaining / remaining.mean()) ** alpha
    # d/dw of Σ |w ‖g‖ - wanted|, the wanted norms constant; 0 is the least weight.
    w = np.maximum(w - rate * np.sign(w * norm - wanted) * norm, 0)
    w = NUM_TASKS * w / w.sum()
  assert rate < 0.5 or np.min(expected) == 0
  tx = aggregators.gradnorm(alpha, optax.sgd(rate), num_tasks=NUM_TASKS)
  weights, _, _ = scanned(tx, JACOBIANS, losses=LOSSES)
  np.testing.assert_allclose(weights, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("min_losses", [0.0, [0.01, 0.1, 2.0]])
@pytest.mark.parametrize("measured", [True, False])
def test_famo_learns_from_what_the_last_step_did_to_the_losses(min_losses, measured):
  after = LOSSES * np.exp(0.1 * RNG.normal(size=LOSSES.shape)) if measured else LOSSES
  logits, last, expected = np.zeros(NUM_TASKS), None, []
  for now, then in zip(LOSSES, after, strict=True):
    if last is not None:
      progress = np.log(last) - np.log(then - min_losses + 1e-8)
      z = softmax(logits)
      # The authors' surrogate: the gradient of ⟨softmax(ξ), progress⟩ by ξ.
      logits = logits - 0.3 * (np.diag(z) - np.outer(z, z)) @ progress
    last = now - min_losses + 1e-8
    weights = softmax(logits) / last
    expected.append(weights / weights.sum())
  tx = aggregators.famo(optax.sgd(0.3), jnp.asarray(min_losses), num_tasks=NUM_TASKS)
  extra_args = {"losses_after_step": after} if measured else {}
  assert_weights(tx, expected, **extra_args)


def test_slaw_weighs_by_the_inverse_deviation_of_the_losses():
  beta, expected = 0.75, []
  for step in range(1, NUM_STEPS + 1):
    # Of the first 1 / (1 - β) steps the mean, from then on an exponential average.
    share = np.full(min(step, 4), 1 / min(step, 4))
    for _ in range(4, step):
      share = np.append(beta * share, 1 - beta)
    mean, mean_square = share @ LOSSES[:step], share @ LOSSES[:step] ** 2
    deviation = np.sqrt(np.maximum(mean_square - mean**2, 0))
    inverse = 1 / np.maximum(deviation, 1e-5)
    expected.append(NUM_TASKS * inverse / inverse.sum())
  assert_weights(aggregators.slaw(beta, num_tasks=NUM_TASKS), expected)


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_dtp_neglects_tasks_that_perform_well(gamma):
  kpis = RNG.uniform(0.05, 0.95, LOSSES.shape)
  mean, expected = kpis[0], []
  for step, kpi in enumerate(kpis):
    mean = kpi if step == 0 else 0.3 * kpi + 0.7 * mean
    expected.append(-((1 - mean) ** gamma) * np.log(mean))
  assert_weights(aggregators.dtp(gamma, 0.3, num_tasks=NUM_TASKS), expected, kpis=kpis)


def geometric_mean(losses):
  return np.prod(losses) ** (1 / len(losses))


LAMBDA, IDEAL = np.array([0.2, 0.5, 1.3]), np.array([0.1, 0.4, -1.0])
SCALARISED = {
  "gls": (aggregators.gls(num_tasks=NUM_TASKS), geometric_mean),
  "stch": (
    aggregators.stch(0.5, num_tasks=NUM_TASKS),
    lambda losses: 0.5 * np.log(np.sum(np.exp(losses / NUM_TASKS / 0.5))),
  ),
  "stch with preferences": (
    aggregators.stch(0.5, preferences=LAMBDA, ideal=IDEAL, num_tasks=NUM_TASKS),
    lambda losses: 0.5 * np.log(np.sum(np.exp(LAMBDA * (losses - IDEAL) / 0.5))),
  ),
}


@pytest.mark.parametrize(("tx", "function"), SCALARISED.values(), ids=SCALARISED)
def test_the_weights_are_the_derivatives_of_one_function_of_the_losses(tx, function):
  losses = np.array([[0.3, 2.0, 0.9], [1.0, 1.0, 1.0], [3.0, 0.5, 0.1]])
  weights, _, _ = scanned(tx, np.ones((3, NUM_TASKS, 1)), losses=losses)
  for actual, point in zip(weights, losses, strict=True):
    expected = scipy.optimize.approx_fprime(point, function, 1e-7)
    np.testing.assert_allclose(actual, expected, atol=1e-6)


def test_bmtl_has_the_derivatives_of_exponentials_in_units_of_their_sum():
  slopes = np.exp(LOSSES / 5.0) / 5.0
  expected = slopes / slopes.sum(1, keepdims=True)
  assert_weights(aggregators.bmtl(5.0, num_tasks=NUM_TASKS), expected)
