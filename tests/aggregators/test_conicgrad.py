"""ConicGrad against the best update in its cone."""

import numpy as np
import pytest
import scipy.optimize
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.examples import relative_error, task_gradients
from tests.helpers.near_the_mean import full_rank, length, unit_of_gain, update_of

pytestmark = pytest.mark.usefixtures("quick_compilation")
seeds = st.integers(0, 2**32 - 1)


def longest_reach(w, jacobian, c):
  """How far the vectors of the mean's length in the cone reach along g_w."""
  mean, g_w = jacobian.mean(0), w @ jacobian
  along = g_w @ mean / length(mean)
  if along >= c * length(g_w):
    return length(mean) * length(g_w)
  across = np.sqrt(max(g_w @ g_w - along**2, 0.0))
  return length(mean) * (c * along + np.sqrt(1 - c**2) * across)


@given(seed=seeds, shape=full_rank, c=st.floats(0.05, 0.95))
def test_conicgrad_maximises_the_smallest_gain_within_its_cone(seed, shape, c):
  jacobian = task_gradients(seed, shape[0], decades=1, size=shape[1])
  mean, equal = jacobian.mean(0), np.full(len(jacobian), 1 / len(jacobian))
  _, update = update_of("conicgrad", jacobian, c)
  assert length(update) == pytest.approx(length(mean), rel=1e-3)
  assert update @ mean >= (c - 1e-3) * length(mean) ** 2
  # The dual problem: no vector in the cone gains more than this bound.
  bound = scipy.optimize.minimize(
    longest_reach,
    equal,
    (jacobian, c),
    bounds=[(0, 1)] * len(jacobian),
    constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
  ).fun
  assert np.min(jacobian @ update) >= bound - 1e-3 * unit_of_gain(jacobian)


@given(seed=seeds, shape=full_rank)
def test_conicgrad_in_a_very_narrow_cone_is_the_mean(seed, shape):
  jacobian = task_gradients(seed, shape[0], size=shape[1])
  _, update = update_of("conicgrad", jacobian, 0.99999)
  assert relative_error(update, jacobian.mean(0)) < 1e-2


def test_conicgrad_has_the_means_length_where_conflict_is_unavoidable():
  jacobian = np.array([[-1, 1], [-1, -1], [-1, 1], [-1, -1], [9, 0]])
  _, update = update_of("conicgrad", jacobian, 0.5)
  assert length(update) == pytest.approx(length(jacobian.mean(0)), rel=1e-3)
