"""Singular values of the matrix of gradients, each accurate relative to itself."""

import jax
import jax.numpy as jnp
import numpy as np

from maxgnr_jax._linalg._active import num_active
from maxgnr_jax._linalg._gramian import cosines, norms, rounding, unit_largest

# Jacobi's method converges quadratically: it needs 3 to 7 sweeps.
MAX_SWEEPS = 20


def principal_components(gramian: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns the singular values and left singular vectors of the matrix of gradients.

  Each singular value is as accurate as the cosines between the gradients allow, however
  much the norms differ. The eigenvalues of the Gramian would only be accurate relative
  to the largest: in float32, lengths that differ 2,000-fold would be lost.

  Args:
    gramian: [K, K], ``⟨g_i, g_j⟩``.

  Returns:
    The singular values in units of the largest norm, [K], in no particular order; 0 for
    those that are missing where gradients are zero or linearly dependent. The left
    singular vectors, [K, K], in the same order in the columns; missing ones are 0.

  References:
    Drmač and Veselić, New Fast and Accurate Jacobi SVD Algorithm, SIAM Journal on
    Matrix Analysis and Applications 2008.
  """
  norm = unit_largest(norms(gramian))
  rows = norm[None, :] * _graded_factor(cosines(gramian), norm).T
  values, vectors = jax.vmap(_normalise)(_orthogonalise(rows))
  return values, vectors.T


def _graded_factor(cosine: jax.Array, norm: jax.Array) -> jax.Array:
  """Returns L with ``L Lᵀ = C`` by Cholesky's method, longest remainder first, [K, K].

  What remains of the gradients is measured against their own norms, so that a short
  gradient counts and the rounding error of a long one does not. Each linearly dependent
  gradient leaves a column of zeros.
  """
  size, dtype = len(cosine), cosine.dtype
  least = 0.5 * num_active(norm > 0, dtype) * rounding(dtype)

  def step(column, carry):
    factor, rest, left = carry
    # The squared sine between a gradient and the span of those before it.
    squared_sine = jnp.where(left, jnp.diagonal(rest), 0.0)
    independent = squared_sine > least
    root = jnp.sqrt(jnp.where(independent, squared_sine, 1.0))
    pivot = jnp.argmax(jnp.where(independent, norm * root, -1.0))
    entries = jnp.where(left & independent[pivot], rest[pivot] / root[pivot], 0.0)
    rest -= entries[:, None] * entries[None, :]
    return factor.at[:, column].set(entries), rest, left & (jnp.arange(size) != pivot)

  start = (jnp.zeros_like(cosine), cosine, jnp.ones(size, bool))
  return jax.lax.fori_loop(0, size, step, start)[0]


def _orthogonalise(matrix: jax.Array) -> jax.Array:
  """Rotates pairs of rows of a matrix [K, K] until all are orthogonal.

  A round rotates pairs without a row in common. A sweep has as many rounds as it takes
  to rotate each pair once.
  """
  size = len(matrix)
  rounds = jnp.asarray(_tournament(size))
  tolerance = rounding(matrix.dtype)

  def play(number, carry):
    matrix, largest = carry
    first, second = rounds[number]
    a, b, cosine = jax.vmap(_rotate)(matrix[first], matrix[second])
    matrix = matrix.at[first].set(a).at[second].set(b)
    return matrix, jnp.maximum(largest, jnp.max(jnp.abs(cosine)))

  def sweep(carry):
    count, matrix, _ = carry
    start = (matrix, jnp.zeros((), matrix.dtype))
    return count + 1, *jax.lax.fori_loop(0, len(rounds), play, start)

  def unsolved(carry):
    count, _, largest = carry
    return (count < MAX_SWEEPS) & (largest > tolerance)

  # An odd number of rows gets one of zeros for a partner.
  padded = jnp.pad(matrix, ((0, size % 2), (0, 0)))
  start = (jnp.zeros((), int), padded, jnp.ones((), matrix.dtype))
  _, rotated, _ = jax.lax.while_loop(unsolved, sweep, start)
  return rotated[:size]


def _rotate(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Makes two vectors [K] orthogonal, the longer first; returns their cosine too."""
  (a_norm, a_unit), (b_norm, b_unit) = _normalise(a), _normalise(b)
  cosine = jnp.sum(a_unit * b_unit)
  a, b = jnp.where(a_norm >= b_norm, a, b), jnp.where(a_norm >= b_norm, b, a)
  longer, shorter = jnp.maximum(a_norm, b_norm), jnp.minimum(a_norm, b_norm)
  ratio = shorter / jnp.where(longer > 0, longer, 1.0)
  # The tangent of twice the angle is `opposite / adjacent`.
  opposite, adjacent = 2.0 * cosine * ratio, 1.0 - ratio * ratio
  divisor = adjacent + jnp.sqrt(adjacent * adjacent + opposite * opposite)
  tangent = opposite / jnp.where(divisor > 0, divisor, 1.0)
  cos = 1.0 / jnp.sqrt(1.0 + tangent * tangent)
  return cos * (a + tangent * b), cos * (b - tangent * a), cosine


def _normalise(vector: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns the norm of a vector, and the vector of norm 1; zero stays zero."""
  # The largest entry comes first: squares may be outside the range of float32.
  largest = jnp.max(jnp.abs(vector))
  scaled = vector / jnp.where(largest > 0, largest, 1.0)
  norm = jnp.sqrt(jnp.sum(scaled * scaled))
  return largest * norm, scaled / jnp.where(norm > 0, norm, 1.0)


def _tournament(size: int) -> np.ndarray:
  """Returns pairs of rows, [rounds, 2, pairs], so that each pair meets once."""
  even = size + size % 2
  order = np.arange(even)
  rounds = []
  for _ in range(even - 1):
    rounds.append(np.sort([order[: even // 2], order[even // 2 :][::-1]], axis=0))
    order = np.concatenate([order[:1], np.roll(order[1:], 1)])
  return np.array(rounds)
