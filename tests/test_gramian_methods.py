"""Methods of inner products against their definitions, in NumPy, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from maxgnr_jax import aggregators
from tests.examples import relative_error, task_gradients

pytestmark = pytest.mark.usefixtures("quick_compilation")
seeds = st.integers(0, 2**32 - 1)
sizes = st.sampled_from([2, 5])  # few, because each is compiled
NAMES = ("nash_mtl", "fairgrad", "config", "imtl_g", "gradient_norm_scaling")
compiled = {name: jax.jit(getattr(aggregators, f"{name}_weights")) for name in NAMES}


def weigh(name, jacobian, *args, dtype=jnp.float32):
  gramian = jnp.asarray(jacobian @ jacobian.T, dtype)
  return np.asarray(compiled[name](gramian, *args), np.float64)


def unfairness(jacobian, weights, alpha):
  """The largest relative error in ``G w = w^(-1/α)``."""
  assert weights.min() > 0
  return np.abs(jacobian @ (weights @ jacobian) * weights ** (1 / alpha) - 1).max()


@given(seed=seeds, num_tasks=sizes)
def test_nash_mtl_gives_every_task_a_gain_inverse_to_its_weight(seed, num_tasks):
  jacobian = task_gradients(seed, num_tasks)
  weights = weigh("nash_mtl", jacobian)
  assert unfairness(jacobian, weights, 1.0) < 1e-3
  length = np.linalg.norm(weights @ jacobian)
  assert length == pytest.approx(np.sqrt(num_tasks), rel=1e-3)


@given(seed=seeds, num_tasks=sizes, decades=st.integers(-5, 5))
def test_nash_mtl_does_not_change_when_a_loss_is_scaled(seed, num_tasks, decades):
  jacobian = task_gradients(seed, num_tasks)
  scaled = jacobian * np.append(10.0**decades, np.ones(num_tasks - 1))[:, None]
  update = weigh("nash_mtl", jacobian) @ jacobian
  assert relative_error(weigh("nash_mtl", scaled) @ scaled, update) < 1e-3


@given(seed=seeds, num_tasks=sizes, alpha=st.sampled_from([0.5, 1.0, 2.0, 5.0]))
def test_fairgrad_solves_its_equation(seed, num_tasks, alpha):
  jacobian = task_gradients(seed, num_tasks)
  weights = weigh("fairgrad", jacobian, jnp.float32(alpha))
  assert unfairness(jacobian, weights, alpha) < 1e-3


@given(seed=seeds, num_tasks=sizes)
def test_fairgrad_of_alpha_one_is_nash_mtl(seed, num_tasks):
  jacobian = task_gradients(seed, num_tasks)
  expected = weigh("nash_mtl", jacobian)
  weights = weigh("fairgrad", jacobian, jnp.float32(1.0))
  np.testing.assert_allclose(weights, expected, rtol=1e-4)


def test_fairgrad_of_a_large_alpha_is_the_solution_in_double_precision(float64):
  for seed in range(20):
    jacobian = task_gradients(seed, 5)
    solution = weigh("fairgrad", jacobian, 10.0, dtype=jnp.float64)
    assert unfairness(jacobian, solution, 10.0) < 1e-9
    weights = weigh("fairgrad", jacobian, jnp.float32(10.0))
    assert relative_error(weights @ jacobian, solution @ jacobian) < 1e-4


def test_nash_mtl_of_gradients_that_cancel_is_finite():
  # Three in a plane, of which some positive combination is zero.
  for seed in (239, 342, 357, 520, 775, 902):
    assert np.all(np.isfinite(weigh("nash_mtl", task_gradients(seed, 3, size=2))))


@given(seed=seeds, num_tasks=sizes)
def test_config_is_as_near_to_every_task_and_as_long_as_they_reach(seed, num_tasks):
  jacobian = task_gradients(seed, num_tasks, decades=1)
  update = weigh("config", jacobian) @ jacobian
  direction = update / np.linalg.norm(update)
  cosines = jacobian @ direction / np.linalg.norm(jacobian, axis=1)
  np.testing.assert_allclose(cosines, cosines.mean(), rtol=0, atol=1e-3)
  length = np.sum(jacobian @ direction)
  assert np.linalg.norm(update) == pytest.approx(length, rel=1e-3)


@given(seed=seeds, num_tasks=sizes)
def test_config_points_where_imtl_g_does(seed, num_tasks):
  jacobian = task_gradients(seed, num_tasks, decades=1)
  updates = [weigh(name, jacobian) @ jacobian for name in ("config", "imtl_g")]
  one, other = (update / np.linalg.norm(update) for update in updates)
  assert abs(one @ other) == pytest.approx(1, abs=1e-3)


@given(seed=seeds, num_tasks=sizes)
def test_gradient_norm_scaling_makes_every_gradient_as_long_as_their_sum(
  seed, num_tasks
):
  jacobian = task_gradients(seed, num_tasks)
  weights = weigh("gradient_norm_scaling", jacobian)
  expected = np.linalg.norm(jacobian.sum(0))
  np.testing.assert_allclose(
    weights * np.linalg.norm(jacobian, axis=1), expected, rtol=1e-3
  )


def update_of(tx, jacobian):
  """The update for gradients [K, D], and the state after it."""
  grads = jnp.asarray(jacobian, jnp.float32)
  updates, state = tx.update(grads, tx.init(grads[0]))
  return np.asarray(updates, np.float64), state


@pytest.mark.parametrize("signs", [(1, -1), (-1, 1, 1)])
def test_ngdiff_adds_unit_gradients_with_their_signs(signs):
  jacobian = task_gradients(0, len(signs))
  update, _ = update_of(aggregators.ngdiff(signs), jacobian)
  units = jacobian / np.linalg.norm(jacobian, axis=1, keepdims=True)
  np.testing.assert_allclose(update, np.array(signs) @ units, rtol=1e-4, atol=1e-6)


def krum(jacobian, num_byzantine, num_selected):
  """Blanchard et al., Section 4, on the gradients themselves."""
  scores = []
  for gradient in jacobian:
    distances = np.sort(np.sum((jacobian - gradient) ** 2, axis=1))
    scores.append(distances[1 : len(jacobian) - num_byzantine - 1].sum())
  return np.argsort(scores)[:num_selected]


@pytest.mark.parametrize(
  ("num_byzantine", "num_selected"), [(0, 1), (1, 1), (1, 2), (3, 4), (3, 6)]
)
def test_krum_averages_those_of_the_nearest_neighbours(num_byzantine, num_selected):
  weighting = jax.jit(
    lambda gramian: aggregators.krum_weights(gramian, num_byzantine, num_selected)
  )
  for seed in range(20):
    jacobian = task_gradients(seed, 6, decades=1)
    weights = weighting(jnp.asarray(jacobian @ jacobian.T, jnp.float32))
    chosen = krum(jacobian, num_byzantine, num_selected)
    np.testing.assert_allclose(
      weights, np.isin(np.arange(6), chosen) / num_selected, rtol=1e-6
    )


compiled_krum = jax.jit(lambda gramian: aggregators.krum_weights(gramian, 1, 3))


@given(seed=seeds, outlier=st.integers(0, 4))
def test_krum_leaves_a_large_outlier_out(seed, outlier):
  jacobian = 1 + 0.1 * np.random.default_rng(seed).normal(size=(5, 10))
  jacobian[outlier] *= -1e4
  weights = compiled_krum(jnp.asarray(jacobian @ jacobian.T, jnp.float32))
  assert weights[outlier] == 0
  assert weights.sum() == pytest.approx(1)


@pytest.mark.parametrize("trim", [0, 1, 2])
def test_trimmed_mean_is_scipys(trim):
  jacobian = task_gradients(0, 5)
  update, _ = update_of(aggregators.trimmed_mean(trim), jacobian)
  expected = scipy.stats.trim_mean(jacobian, (trim + 0.5) / 5, axis=0)
  np.testing.assert_allclose(update, expected, rtol=1e-5, atol=1e-6)


def test_trimmed_mean_of_three_tasks_is_the_median():
  jacobian = task_gradients(0, 3)
  update, state = update_of(aggregators.trimmed_mean(), jacobian)
  np.testing.assert_allclose(update, np.median(jacobian, axis=0), rtol=1e-6)
  np.testing.assert_allclose(state.weights, 1 / 3)


@pytest.mark.parametrize(
  ("tx", "needed"),
  [
    (
      aggregators.krum(),
      "at least `num_byzantine` .* got 2 tasks with num_byzantine=0",
    ),
    (aggregators.krum(0, 3), "got 2 tasks with num_byzantine=0 and num_selected=3"),
    (
      aggregators.trimmed_mean(),
      r"at least 2 `trim` \+ 1 tasks, got 2 tasks with trim=1",
    ),
  ],
)
def test_too_few_tasks_are_told_how_many_there_must_be(tx, needed):
  with pytest.raises(ValueError, match=needed):
    jax.eval_shape(tx.update, jnp.ones((2, 4)), tx.init(jnp.ones(4)))
