"""How far weights are from the optimum of Eq. 17 at most."""

import jax
import jax.numpy as jnp

from maxgnr_jax._checks import one_per_task
from maxgnr_jax._gnr import GradientStats
from maxgnr_jax._linalg import matvec, solve_free, unit_largest
from maxgnr_jax._solvers import quadratic_programme


def certificate(stats: GradientStats, weights: jax.typing.ArrayLike) -> jax.Array:
  """Returns a share of the optimum of Eq. 17 that ``weights`` are certain to reach.

  No weights make the smallest GNR larger than ``min_k GNR_k / certificate``: 1 proves
  the optimum, 1 minus the certificate is a relative duality gap. It follows from any
  ``λ ≥ 0``: the minimum of ``vᵀ C v`` over ``v ≥ b`` (see :func:`projected_newton`) is
  at least ``(bᵀ λ)² / λᵀ C⁻¹ λ``. Here λ is ``C v``, with 0 for negative entries. At
  the optimum there are none, and the two are equal. For other weights the certificate
  is often far below the share that they reach.

  Args:
    stats: Statistics of the K tasks, for instance
      ``aggregator_state(opt_state).stats``.
    weights: [K], not negative, for instance ``aggregator_state(opt_state).weights``.

  Returns:
    [], in [0, 1] up to rounding. 1 if no noise is left, and 0 if a task with a gradient
    has no weight.

  Raises:
    ValueError: if ``weights`` does not hold one number per task.

  Example:
    >>> import jax.numpy as jnp
    >>> from maxgnr_jax import GradientStats, certificate
    >>> stats = GradientStats(
    ...     jnp.array([1.0, 3.0]), jnp.array([1.0, 1.0]), jnp.eye(2)
    ... )
    >>> float(certificate(stats, jnp.array([0.75, 0.25])))
    1.0
    >>> f"{certificate(stats, jnp.array([0.5, 0.5])):.2f}"  # it reaches 0.56
    '0.44'

  References:
    Fan et al., MaxGNR: A Dynamic Weight Strategy via Maximizing Gradient-to-Noise Ratio
    for Multi-Task Learning, Eq. 17.
  """
  return _share(stats, one_per_task("weights", weights, stats.noise_norm))


@jax.jit
def _share(stats: GradientStats, weights: jax.Array) -> jax.Array:
  """Returns the certificate for ``weights`` [K]."""
  cosine, bound = quadratic_programme(stats)
  has_gradient = stats.gradient_norm > 0
  # w ‖m‖, whose smallest number is 1 in the units of the programme.
  signal = unit_largest(unit_largest(weights) * unit_largest(stats.gradient_norm))
  smallest = jnp.min(jnp.where(has_gradient, signal, jnp.inf))
  v = bound * jnp.where(has_gradient, signal, 0.0)
  slope = matvec(cosine, v)
  multiplier = jnp.maximum(slope, 0.0)
  # C⁻¹ λ is v, and the inverse of C times what λ differs from C v by.
  change = solve_free(cosine, multiplier - slope, bound > 0)
  squared = jnp.vdot(multiplier, v + change, precision="highest")
  reached = jnp.vdot(v, slope, precision="highest")
  least = jnp.vdot(bound, multiplier, precision="highest")
  # A matrix that is not semidefinite has no such inverse: nothing is certain.
  certain = (reached > 0) & (squared > 0)
  share = (smallest * least) ** 2 / jnp.where(certain, reached * squared, 1.0)
  noiseless = (reached <= 0) & (smallest > 0)
  return jnp.where(certain, share, jnp.where(noiseless, 1.0, 0.0))
