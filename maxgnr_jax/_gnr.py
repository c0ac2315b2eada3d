"""The gradient-to-noise ratio: what is measured, and what it says of given weights."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from maxgnr_jax._linalg._matrix import quadratic_form


class GradientStats(NamedTuple):
  """All that Eq. 17 needs to know of K tasks' gradients; no parameter-sized array.

  The Gram matrix of the noises is kept as norms and cosines: their product
  squares the scale of a gradient, which float32 does not always hold.

  Attributes:
    gradient_norm: [K], float. ``‖m_k‖``, the norm of each task's momentum, which
      stands for its expected gradient (Eq. 14).
    noise_norm: [K], float. ``‖n_k‖``, the norm of each task's noise (Eq. 16).
    noise_cosine: [K, K], float in [-1, 1]. ``⟨n_i, n_j⟩ / (‖n_i‖ ‖n_j‖)``; the
      rows and columns of a task without noise are 0.
  """

  gradient_norm: jax.Array
  noise_norm: jax.Array
  noise_cosine: jax.Array

  @property
  def noise_gram(self) -> jax.Array:
    """[K, K], ``⟨n_i, n_j⟩``. Overflows float32 where a norm exceeds 1e19."""
    norm = self.noise_norm
    return norm[:, None] * norm[None, :] * self.noise_cosine


class NoiseAverage(NamedTuple):
  """An exponential average of the noises' Gram matrix, as norms and cosines.

  Attributes:
    norm: [K], float. The root mean square of each task's noise.
    cosine: [K, K], float. The average product of two noises, in units of these.
  """

  norm: jax.Array
  cosine: jax.Array

  def follow(self, stats: GradientStats, keep: jax.Array) -> "NoiseAverage":
    """One step of ``N ← R^½ N R^½ + (I-R)^½ n nᵀ (I-R)^½``, R the diagonal of ``keep``.

    Where all of ``keep`` is ρ that is ``ρ N + (1-ρ) n nᵀ``. The average is positive
    semidefinite, however many steps each task missed.

    Args:
      stats: This step's; zeros for absent tasks.
      keep: [K], in [0, 1], 1 of absent tasks.
    """
    unit = jnp.maximum(self.norm, stats.noise_norm)
    unit = jnp.where(unit > 0, unit, 1.0)
    old = jnp.sqrt(keep) * self.norm / unit
    new = jnp.sqrt(1.0 - keep) * stats.noise_norm / unit
    gram = old[:, None] * old[None, :] * self.cosine
    gram += new[:, None] * new[None, :] * stats.noise_cosine
    norm = jnp.sqrt(jnp.diagonal(gram))
    divisor = jnp.where(norm > 0, norm, 1.0)
    cosine = jnp.clip(gram / divisor[:, None] / divisor[None, :], -1.0, 1.0)
    return NoiseAverage(unit * norm, cosine)


def no_noise(shape: tuple[int, ...], dtype: Any) -> NoiseAverage:
  """An average of nothing yet, for weights of the given shape."""
  return NoiseAverage(jnp.zeros(shape, dtype), jnp.zeros((*shape, shape[-1]), dtype))


def single_task_gnr(stats: GradientStats) -> jax.Array:
  """The GNR each task would have if it were trained alone (Eq. 8).

  Args:
    stats: What was measured of the K tasks.

  Returns:
    [K], ``‖m_k‖² / ‖n_k‖²``: infinite for a task without noise, 0 for a task
    without gradient.

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
  """The GNR of each task when the tasks are trained together with ``weights``.

  This is Eq. 9 with the estimates of Eq. 17:
  ``(w_k ‖m_k‖)² / ‖Σ_j w_j n_j‖²``. It does not change when all weights are
  multiplied by the same number.

  Args:
    weights: [K], one weight per task. Any real numbers; MaxGNR's own are
      non-negative and sum to 1.
    stats: What was measured of the K tasks, for instance
      ``optax.tree.get(opt_state, "stats")``.

  Returns:
    [K]: infinite where the weighted noises cancel to nothing, 0 for a task
    without weight or without gradient.

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
  weights = jnp.asarray(weights, stats.noise_norm.dtype)
  if weights.shape != stats.noise_norm.shape:
    raise ValueError(
      "`weights` must hold one number per task, shape "
      f"{stats.noise_norm.shape}, got shape {weights.shape}."
    )
  noise = weights * stats.noise_norm
  scale = jnp.max(jnp.abs(noise), initial=0.0)
  noise = noise / jnp.where(scale > 0, scale, 1.0)
  combined = jnp.sqrt(jnp.maximum(quadratic_form(stats.noise_cosine, noise), 0.0))
  return _squared_ratio(jnp.abs(weights * stats.gradient_norm), scale * combined)


def _squared_ratio(signal: jax.Array, noise: jax.Array) -> jax.Array:
  """``signal² / noise²``, with 0 where both are 0."""
  ratio = signal / jnp.where(noise > 0, noise, 1.0)
  ratio = jnp.where(noise > 0, ratio, jnp.where(signal > 0, jnp.inf, 0.0))
  return ratio * ratio
