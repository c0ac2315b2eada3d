"""Pictures show what was measured."""

import sys

import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure

from maxgnr_jax import GradientStats, interference
from maxgnr_jax.plots import plot_interference

STATS = GradientStats(
  jnp.array([2.0, 1.0, 0.0]), jnp.array([1.0, 5.0, 0.0]), jnp.eye(3)
)
NAMES = ["depth", "edges", "absent"]


def test_the_map_shows_the_interference(tmp_path):
  weights = [0.5, 0.25, 0.25]
  ax = plot_interference(STATS, weights, NAMES)
  expected = np.asarray(interference(STATS, weights))
  shown = ax.get_images()[0].get_array()
  np.testing.assert_allclose(shown[:2, :2], expected[:2, :2])
  assert shown.mask[2].all()
  assert shown.mask[:, 2].all()
  assert [tick.get_text() for tick in ax.get_yticklabels()] == NAMES
  texts = [text.get_text() for text in ax.texts]
  assert texts == [f"{value:.2g}" for value in expected.ravel()]
  low, high = ax.get_images()[0].get_clim()
  assert low * high == pytest.approx(1.0)
  ax.figure.savefig(tmp_path / "map.png")
  assert (tmp_path / "map.png").stat().st_size > 5_000


def test_it_draws_into_given_axes_even_if_there_is_nothing_to_show():
  ax = Figure().add_subplot()
  silent = GradientStats(jnp.zeros(2), jnp.zeros(2), jnp.zeros((2, 2)))
  assert plot_interference(silent, ax=ax) is ax
  assert ax.get_images()[0].get_array().mask.all()


def test_names_must_be_one_per_task():
  with pytest.raises(ValueError, match="one per task, 3"):
    plot_interference(STATS, names=["depth"])


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch):
  monkeypatch.setitem(sys.modules, "matplotlib.colors", None)
  with pytest.raises(ImportError, match=r"pip install 'maxgnr-jax\[plots\]'"):
    plot_interference(STATS)
