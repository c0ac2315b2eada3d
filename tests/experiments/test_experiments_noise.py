"""Compares norms and noise of gradients with NumPy in double precision."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from benchmarks.experiments import figures
from benchmarks.experiments.checkpoint import Best
from benchmarks.experiments.model import Model
from benchmarks.experiments.noise import GradientNoise, gradient_noise
from benchmarks.experiments.problems.fashion.problem import make_problem
from benchmarks.experiments.step import Trainer
from tests.helpers.experiments import STEPS_PER_EPOCH, tiny_run, write_images

BATCHES = 16  # per epoch; with fewer, the noise estimate is too uncertain

positive = st.floats(1e-3, 1e3)


@pytest.fixture(scope="module")
def problem(tmp_path_factory):
  run = tiny_run(write_images(tmp_path_factory.mktemp("data")))
  return dataclasses.replace(make_problem(run), num_train=BATCHES * 8)


@pytest.mark.usefixtures("quick_experiments")
def test_gradient_norms_and_noise_agree_with_those_of_separate_batches(problem):
  trainer = Trainer(Model(problem), "dwa", (), 8)
  state = trainer.init(0, 1.0)
  params, rest = state.params, state.rest
  found = gradient_noise(trainer, Best(np.array(0), np.array(1), params, rest), seed=3)

  @jax.jit
  def trunk_gradient(batch, which):
    def loss(trunk):
      whole = type(params)({**params, "trunk": trunk})
      losses, _, _ = trainer.model.losses(whole, batch, rest, problem.tasks)
      return jnp.stack([losses[task] for task in problem.tasks]) @ which

    return jax.tree.leaves(jax.grad(loss)(params["trunk"]))

  batches = problem.train_batches(8, 3)
  gradients = np.array(
    [
      [
        np.concatenate(
          [np.ravel(leaf) for leaf in trunk_gradient(batches[step], which)]
        )
        for which in np.eye(len(problem.tasks), dtype=np.float32)
      ]
      for step in range(BATCHES)
    ],
    np.float64,
  )  # [B, K, parameters]
  norms = np.linalg.norm(gradients, axis=2)
  mean = gradients.mean(0)
  deviations = gradients - mean
  noise = np.einsum("bkd,bld->kl", deviations, deviations) / (BATCHES - 1)
  signal = np.linalg.norm(mean, axis=1) ** 2 - np.diag(noise) / BATCHES
  assert (signal > 0).any()
  np.testing.assert_allclose(found.norms, norms, rtol=1e-4)
  scale = np.sqrt(np.outer(np.diag(noise), np.diag(noise)))
  np.testing.assert_allclose(found.noise / scale, noise / scale, atol=1e-4)
  for k in range(len(problem.tasks)):
    # The signal is a difference, so its error scales with the two terms.
    error = 1e-4 * (mean[k] @ mean[k] + noise[k, k])
    assert found.gradient[k] == pytest.approx(max(signal[k], 0), abs=error)
  assert STEPS_PER_EPOCH < trainer.steps_per_epoch == BATCHES


def test_gnr_formulas_agree_with_hand_computed_values():
  noise = GradientNoise(
    norms=np.ones((2, 2)),
    gradient=np.array([8.0, 9.0]),
    noise=np.array([[2.0, -1.0], [-1.0, 4.0]]),
  )
  np.testing.assert_allclose(noise.single_task_gnr(), [8 / 2, 9 / 4])
  # The noise under weights (1/4, 3/4): 1/16 * 2 - 2 * 3/16 * 1 + 9/16 * 4 = 2.
  weighted = noise.task_gnr(np.array([0.25, 0.75]))
  np.testing.assert_allclose(weighted, [8 / 16 / 2, 9 * 9 / 16 / 2])
  alone = noise.task_gnr(np.array([0.0, 1.0]))
  np.testing.assert_allclose(alone, [0, 9 / 4])


@given(
  st.lists(st.tuples(positive, positive, positive), min_size=1, max_size=6),
  st.floats(0.01, 100),
)
def test_independent_noise_of_other_tasks_never_raises_the_gnr(tasks, scale):
  gradient, noise, weights = np.array(tasks).T
  measured = GradientNoise(np.ones((1, len(tasks))), gradient, np.diag(noise))
  single, multi = measured.single_task_gnr(), measured.task_gnr(weights)
  assert (multi <= single * (1 + 1e-9)).all()
  # Multiplying all weights by the same factor has no effect.
  np.testing.assert_allclose(measured.task_gnr(scale * weights), multi, rtol=1e-9)


def test_a_gnr_of_zero_is_written_where_its_bar_would_be(monkeypatch):
  drawn = []
  monkeypatch.setattr(Figure, "savefig", lambda self, *_, **__: drawn.append(self))
  noise = GradientNoise(np.ones((3, 2)), np.array([0.0, 1.0]), np.eye(2))
  models = {"equal-weights": (noise, np.array([0.5, 0.5]))}
  figures.norms_and_gnr(models, ["depth", "normal"], "rooms", Path("gnr.png"))
  texts = drawn[0].axes[1].texts
  assert [text.get_position()[0] for text in texts] == [-0.2, 0.2]
  assert [text.get_text() for text in texts] == ["0", "0"]
