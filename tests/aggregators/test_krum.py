"""Multi-Krum against its definition on the gradients themselves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maxgnr_jax import aggregators
from tests.helpers.examples import task_gradients
from tests.helpers.weights import some_tasks, weigh_active

pytestmark = pytest.mark.usefixtures("quick_compilation")
seeds = st.integers(0, 2**32 - 1)


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
def test_krum_averages_the_gradients_nearest_to_their_neighbours(
  num_byzantine, num_selected
):
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
def test_krum_gives_a_large_outlier_no_weight(seed, outlier):
  jacobian = 1 + 0.1 * np.random.default_rng(seed).normal(size=(5, 10))
  jacobian[outlier] *= -1e4
  weights = compiled_krum(jnp.asarray(jacobian @ jacobian.T, jnp.float32))
  assert weights[outlier] == 0
  assert weights.sum() == pytest.approx(1)


@pytest.mark.parametrize(("num_byzantine", "num_selected"), [(0, 1), (1, 2), (2, 4)])
def test_krum_chooses_among_the_active_tasks_as_if_alone(num_byzantine, num_selected):
  arguments = {"num_byzantine": num_byzantine, "num_selected": num_selected}
  for seed in range(20):
    jacobian, active = task_gradients(seed, 7, decades=1), some_tasks(seed, 7, 5)
    weights = weigh_active("krum", jacobian, active, **arguments)
    alone = weigh_active("krum", jacobian[active], np.ones(5, bool), **arguments)
    np.testing.assert_array_equal(weights[active], alone)
    np.testing.assert_array_equal(weights[~active], 0)


@pytest.mark.parametrize(
  ("active", "num_byzantine", "num_selected", "expected"),
  [
    ([1, 1, 1, 1, 1], 2, 1, [0, 1, 0, 0, 0]),
    # Too few tasks to sum over that many distances: only the nearest one counts.
    ([1, 0, 1, 1, 1], 2, 1, [0, 0, 1, 0, 0]),
    ([1, 0, 1, 0, 1], 0, 1, [1, 0, 0, 0, 0]),
    ([1, 0, 0, 0, 1], 0, 2, [0.5, 0, 0, 0, 0.5]),
    ([0, 0, 0, 0, 1], 2, 1, [0, 0, 0, 0, 1]),
    # Fewer active tasks than `num_selected`.
    ([1, 0, 0, 0, 1], 2, 3, [0.5, 0, 0, 0, 0.5]),
  ],
)
def test_krum_selects_fewer_tasks_when_few_are_active(
  active, num_byzantine, num_selected, expected
):
  jacobian = np.array([[1.0], [2.0], [2.1], [2.3], [-50.0]])
  weights = weigh_active(
    "krum",
    jacobian,
    np.array(active, bool),
    num_byzantine=num_byzantine,
    num_selected=num_selected,
  )
  np.testing.assert_array_equal(weights, expected)


@pytest.mark.parametrize(
  ("tx", "needed"),
  [
    (
      aggregators.krum(),
      "at least `num_byzantine` .* got 2 tasks with num_byzantine=0",
    ),
    (aggregators.krum(0, 3), "got 2 tasks with num_byzantine=0 and num_selected=3"),
  ],
)
def test_too_few_tasks_raise_an_error_that_names_the_minimum(tx, needed):
  with pytest.raises(ValueError, match=needed):
    jax.eval_shape(tx.update, jnp.ones((2, 4)), tx.init(jnp.ones(4)))
