"""The gradient-to-noise ratio (GNR) of each task, for measured statistics."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from maxgnr_jax._checks import one_per_task
from maxgnr_jax._linalg._matrix import quadratic_form
from maxgnr_jax._linalg._root import square_root


class GradientStats(NamedTuple):
  """Statistics of the K task gradients that Eq. 17 depends on.

  The Gramian of the noises is kept as norms and cosines, because its entries, the
  products of two norms, may be outside the range of float32.

  Attributes:
    gradient_norm: [K], float. ``‖m_k‖``, the norm of each task's momentum, the estimate
      of its expected gradient (Eq. 14).
    noise_norm: [K], float. ``‖n_k‖``, the norm of each task's noise (Eq. 16).
    noise_cosine: [K, K], float in [-1, 1]. ``⟨n_i, n_j⟩ / (‖n_i‖ ‖n_j‖)``; the rows and
      columns of a task without noise are 0.
  """

  gradient_norm: jax.Array
  noise_norm: jax.Array
  noise_cosine: jax.Array

  @property
  def noise_gram(self) -> jax.Array:
    """The Gramian of the noises, ``⟨n_i, n_j⟩``, [K, K].

    It overflows float32 where a norm exceeds 1e19.
    """
    norm = self.noise_norm
    return norm[:, None] * norm[None, :] * self.noise_cosine


class NoiseAverage(NamedTuple):
  """Exponential moving average of the Gramian of the noises, as norms and cosines.

  Attributes:
    norm: [K], float. The root mean square of the norm of each task's noise.
    cosine: [K, K], float in [-1, 1]. The average product of the noises of two tasks,
      divided by both entries of ``norm``; 0 for a task without noise.
  """

  norm: jax.Array
  cosine: jax.Array

  def follow(self, stats: GradientStats, keep: jax.Array) -> "NoiseAverage":
    """Returns the average after one more step.

    With the average N, the noises n and R = diag(``keep``) the step is
    ``N ← R^½ N R^½ + (I-R)^½ n nᵀ (I-R)^½``. If every entry of ``keep`` is ρ, this is
    ``ρ N + (1-ρ) n nᵀ``. The average stays positive semidefinite when tasks are
    inactive in different steps.

    Args:
      stats: Statistics of this step, 0 for inactive tasks.
      keep: [K], in [0, 1], 1 for inactive tasks.
    """
    unit = jax.lax.stop_gradient(jnp.maximum(self.norm, stats.noise_norm))
    unit = jnp.where(unit > 0, unit, 1.0)
    old = square_root(keep) * self.norm / unit
    new = square_root(1.0 - keep) * stats.noise_norm / unit
    gram = old[:, None] * old[None, :] * self.cosine
    gram += new[:, None] * new[None, :] * stats.noise_cosine
    norm = square_root(jnp.diagonal(gram))
    divisor = jnp.where(norm > 0, norm, 1.0)
    cosine = jnp.clip(gram / divisor[:, None] / divisor[None, :], -1.0, 1.0)
    return NoiseAverage(unit * norm, cosine)


def no_noise(shape: tuple[int, ...], dtype: Any) -> NoiseAverage:
  """Returns the average before the first step, for weights of the given shape."""
  return NoiseAverage(jnp.zeros(shape, dtype), jnp.zeros((*shape, shape[-1]), dtype))


def single_task_gnr(stats: GradientStats) -> jax.Array:
  """Returns the GNR that each task would have if it were trained alone (Eq. 8).

  Args:
    stats: Statistics of the K tasks, for instance
      ``aggregator_state(opt_state).stats``.

  Returns:
    [K], ``‖m_k‖² / ‖n_k‖²``. Infinite for a task without noise, 0 for a task without
    gradient.

  Example:
    >>> import jax.numpy as jnp
    >>> from maxgnr_jax import GradientStats, single_task_gnr
    >>> stats = GradientStats(
    ...     jnp.array([2.0, 1.0]), jnp.array([1.0, 4.0]), jnp.eye(2)
    ... )
    >>> single_task_gnr(stats)
    Array([4.    , 0.0625], dtype=float32)
  """
  return _squared_ratio(stats.gradient_norm, stats.noise_norm)


def task_gnr(weights: jax.typing.ArrayLike, stats: GradientStats) -> jax.Array:
  """Returns the GNR that each task has if all are trained jointly with ``weights``.

  This is Eq. 9 with the estimates of Eq. 17, ``(w_k ‖m_k‖)² / ‖Σ_j w_j n_j‖²``. It does
  not change when all weights are multiplied by the same number.

  Args:
    weights: [K], any real numbers. The weights of :func:`maxgnr` are non-negative and
      sum to 1.
    stats: Statistics of the K tasks, for instance
      ``aggregator_state(opt_state).stats``.

  Returns:
    [K]. Infinite if the weighted noises cancel exactly, 0 for a task without weight or
    without gradient.

  Raises:
    ValueError: if ``weights`` does not hold one number per task.

  Example:
    >>> import jax.numpy as jnp
    >>> from maxgnr_jax import GradientStats, task_gnr
    >>> stats = GradientStats(
    ...     jnp.array([2.0, 1.0]), jnp.array([1.0, 2.0]), jnp.eye(2)
    ... )
    >>> [f"{gnr:.2f}" for gnr in task_gnr(jnp.array([1 / 2, 1 / 2]), stats)]
    ['0.80', '0.20']
    >>> [f"{gnr:.2f}" for gnr in task_gnr(jnp.array([1 / 3, 2 / 3]), stats)]
    ['0.24', '0.24']
  """
  weights = one_per_task("weights", weights, stats.noise_norm)
  noise = weights * stats.noise_norm
  scale = jax.lax.stop_gradient(jnp.max(jnp.abs(noise), initial=0.0))
  noise = noise / jnp.where(scale > 0, scale, 1.0)
  combined = square_root(quadratic_form(stats.noise_cosine, noise))
  return _squared_ratio(jnp.abs(weights * stats.gradient_norm), scale * combined)


def _squared_ratio(signal: jax.Array, noise: jax.Array) -> jax.Array:
  """Returns ``signal² / noise²``, [K], with 0 where both are 0."""
  ratio = signal / jnp.where(noise > 0, noise, 1.0)
  without_noise = jnp.where(signal > 0, jnp.inf, 0.0)
  return jnp.where(noise > 0, ratio * ratio, without_noise)
