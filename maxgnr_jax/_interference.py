"""What the GNR says about tasks that are trained together."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from maxgnr_jax._checks import one_per_task
from maxgnr_jax._gnr import GradientStats
from maxgnr_jax._linalg import minimise_above_exactly, quadratic_form
from maxgnr_jax._solvers import quadratic_programme


def interference(
  stats: GradientStats, weights: jax.typing.ArrayLike | None = None
) -> jax.Array:
  """Returns how much noise each task brings into the training of each other one.

  Entry (k, j) is the noise of task j in units of the gradient of task k, squared, as
  they enter the update: ``(w_j ‖n_j‖)² / (w_k ‖m_k‖)²``. The diagonal is the inverse of
  the GNR that a task would have alone. A row adds up to ``1 / GNR_k`` (Eq. 9) if the
  noises are uncorrelated; otherwise twice their products are missing.

  Args:
    stats: Statistics of the K tasks, for instance
      ``aggregator_state(opt_state).stats``. With ``noise_decay`` they hold averages,
      which say more than the sample of one step.
    weights: [K], those of the update. Default: equal weights.

  Returns:
    [K, K]. Row k says who disturbs task k. Infinite in the row of a task without weight
    or gradient, but 0 for tasks without noise.

  Raises:
    ValueError: if ``weights`` does not hold one number per task.

  Example:
    >>> import jax.numpy as jnp
    >>> from maxgnr_jax import GradientStats, interference
    >>> stats = GradientStats(
    ...     jnp.array([2.0, 1.0]), jnp.array([1.0, 2.0]), jnp.eye(2)
    ... )
    >>> interference(stats).tolist()
    [[0.25, 1.0], [1.0, 4.0]]

  References:
    Fan et al., MaxGNR: A Dynamic Weight Strategy via Maximizing Gradient-to-Noise Ratio
    for Multi-Task Learning, Eqs. 6 and 9.
  """
  gradient, noise = stats.gradient_norm, stats.noise_norm
  weights = jnp.ones_like(noise) if weights is None else weights
  weights = jnp.abs(one_per_task("weights", weights, noise))
  signal = (weights * gradient)[:, None]
  noise = (weights * noise)[None, :]
  ratio = noise / jnp.where(signal > 0, signal, 1.0)
  return jnp.where(signal > 0, ratio * ratio, jnp.where(noise > 0, jnp.inf, 0.0))


def retained_gnr(
  stats: GradientStats, tasks: Sequence[int] | np.ndarray | None = None
) -> jax.Array:
  """Returns the share of its own GNR that each task keeps in the company of others.

  The tasks get the weights that are optimal for them by Eq. 17. Each then has a GNR,
  which is divided by the GNR that it would have alone (Eq. 8).

  Args:
    stats: Statistics of the K tasks, best averages of a joint run: give ``maxgnr`` a
      ``noise_decay`` near 1.
    tasks: Numbers of the tasks that train together, or a mask [K] of bools. Default:
      all.

  Returns:
    One number per task of ``tasks``, in their order (in ascending order for a mask). 1
    if company costs nothing, about 1/n among n tasks of unrelated, equal noises; above
    1 where the noises of others cancel a task's own. A task without gradient or noise
    that meets no noise has nothing to lose, and gets 1.

  Raises:
    ValueError: if ``tasks`` are not different numbers of tasks.

  Example:
    >>> import jax.numpy as jnp
    >>> from maxgnr_jax import GradientStats, retained_gnr
    >>> stats = GradientStats(
    ...     jnp.array([1.0, 1.0, 2.0]), jnp.array([1.0, 1.0, 6.0]), jnp.eye(3)
    ... )
    >>> [f"{share:.2f}" for share in retained_gnr(stats, [0, 1])]
    ['0.50', '0.50']
    >>> [f"{share:.2f}" for share in retained_gnr(stats)]  # the third is noisier
    ['0.09', '0.09', '0.82']

  References:
    Fan et al., MaxGNR: A Dynamic Weight Strategy via Maximizing Gradient-to-Noise Ratio
    for Multi-Task Learning, Eqs. 8 and 17.
  """
  members, order = _members(tasks, stats.noise_norm.size)
  return retained_by_members(stats, members)[order]


@jax.jit
def retained_by_members(stats: GradientStats, members: jax.Array) -> jax.Array:
  """Returns what :func:`retained_gnr` does for a mask [K] of members, [K].

  In the company of others, ``GNR_k = (w_k ‖m_k‖)² / ‖Σ w_j n_j‖²``; alone it is
  ``‖m_k‖² / ‖n_k‖²``. Their quotient is ``v_k² / ‖Σ v_j n_j / ‖n_j‖‖²`` with
  ``v = w ‖n‖``, which the quadratic programme of Eq. 17 is solved for.
  """
  gradient = jnp.where(members, stats.gradient_norm, 0.0)
  cosine, bound = quadratic_programme(stats._replace(gradient_norm=gradient))
  v = minimise_above_exactly(cosine, bound)
  squared = quadratic_form(cosine, v)
  shares = v * v / jnp.where(squared > 0, squared, 1.0)
  alone = jnp.where(v > 0, jnp.inf, 1.0)  # all noises cancel, or there is none
  return jnp.where(stats.gradient_norm > 0, jnp.where(squared > 0, shares, alone), 1.0)


def _members(
  tasks: Sequence[int] | np.ndarray | None, number: int
) -> tuple[np.ndarray, np.ndarray]:
  """Returns a mask [K] of the tasks, and their numbers in the order given."""
  if tasks is None:
    tasks = np.ones(number, bool)
  given = np.asarray(tasks)
  if given.dtype == bool:
    order = np.flatnonzero(given) if given.shape == (number,) else np.array([-1])
  else:
    order = given
  whole = np.issubdtype(order.dtype, np.integer) and order.ndim == 1
  if not whole or not order.size or not set(order) <= set(range(number)):
    valid = False
  else:
    valid = len(set(order)) == order.size
  if not valid:
    raise ValueError(
      f"`tasks` must be different numbers from 0 to {number - 1}, at least one, or a "
      f"mask of {number} bools, got {tasks!r}."
    )
  members = np.zeros(number, bool)
  members[order] = True
  return members, order
