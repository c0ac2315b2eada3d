"""Measures gradients and their noise over a whole data set, at a fixed model."""

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.experiments.checkpoint import Best
from benchmarks.experiments.loading import stream
from benchmarks.experiments.step import Trainer


class GradientNoise(NamedTuple):
  """Statistics of an epoch's task gradients, with respect to the shared parameters.

  B batches, K tasks.

  Attributes:
    norms: [B, K]. Norms of the batches' gradients.
    gradient: [K]. Squared norms of the mean gradients, the noise in them taken off.
    noise: [K, K]. Covariances of the tasks' noises, summed over parameters; the
      diagonal is tr(C^k) / |S| of Eq. 3.
  """

  norms: np.ndarray
  gradient: np.ndarray
  noise: np.ndarray

  def single_task_gnr(self) -> np.ndarray:
    """Computes GNR_S of Eq. 8, [K], under each task's own noise."""
    return self.gradient / np.diag(self.noise)

  def task_gnr(self, weights: np.ndarray) -> np.ndarray:
    """Computes GNR_M of Eq. 9, [K], under the weighted noise of all tasks."""
    return weights**2 * self.gradient / (weights @ self.noise @ weights)


def gradient_noise(trainer: Trainer, model: Best, seed: int) -> GradientNoise:
  """Takes the gradients of one epoch's batches, in the order of ``seed``.

  Batch statistics are those of each batch, or of each of its parts, as in training.
  """
  params, rest = trainer.model.replicate((model.params, model.rest))
  measured = jax.tree.leaves(trainer.problem.trunk_only(params))

  def shared_leaves(tree):
    return list(itertools.compress(jax.tree.leaves(tree), measured))

  @jax.jit
  def measure(total, grads):
    rows = [grad.reshape(len(grad), -1) for grad in shared_leaves(grads)]
    gram = sum(row @ row.T for row in rows)
    return [a + b for a, b in zip(total, rows, strict=True)], gram

  total: Any = [
    jnp.zeros((len(trainer.tasks), leaf.size)) for leaf in shared_leaves(params)
  ]
  grams = []
  batches = trainer.problem.train_batches(trainer.batch_size, seed)
  for batch in stream(batches, 0, trainer.steps_per_epoch):
    _, found = trainer.gradients(params, trainer.model.on_devices(batch), rest)
    total, gram = measure(total, found["grads"])
    grams.append(np.asarray(gram, np.float64))
  number = len(grams)
  means = [np.asarray(leaf, np.float64) / number for leaf in total]
  of_mean = sum(mean @ mean.T for mean in means)
  # Unbiased, as a variance is; the mean gradient holds a share of the noise itself.
  noise = (np.mean(grams, axis=0) - of_mean) * number / max(1, number - 1)
  gradient = np.maximum(np.diag(of_mean) - np.diag(noise) / number, 0)
  norms = np.sqrt([np.diag(gram) for gram in grams])
  return GradientNoise(norms, gradient, noise)
