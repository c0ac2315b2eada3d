"""What methods define, in float64 and by enumeration of the tasks that take part.

They take gradients [K, D] in float64, share no algorithm with the library, and work on
unit gradients, so that no ratio of norms is lost. Each returns the update [D] and the
length that its rounding errors are relative to where terms cancel.
"""

import itertools

import numpy as np


def norms(jacobian):
  """The norms of the gradients, [K]."""
  return np.linalg.norm(jacobian, axis=1)


def units(jacobian):
  """Norms [K] and unit gradients [K, D]."""
  lengths = norms(jacobian)
  return lengths, jacobian / lengths[:, None]


def inverses(cosine):
  """The inverse of the cosines of every set of independent tasks, 0 for the others."""
  num_tasks = len(cosine)
  sets = np.array(list(itertools.product([False, True], repeat=num_tasks)))[1:]
  both = sets[:, :, None] & sets[:, None, :]
  matrices = np.where(both, cosine, np.eye(num_tasks))
  independent = np.linalg.eigvalsh(matrices)[:, 0] > 1e-10
  return np.where(both[independent], np.linalg.inv(matrices[independent]), 0)


def aligned_mtl(jacobian):
  """The mean of the gradients with all singular values equal to the smallest."""
  left, values, right = np.linalg.svd(jacobian, full_matrices=False)
  rank = np.linalg.matrix_rank(units(jacobian)[1], tol=1e-5)
  smallest = values[rank - 1]
  return smallest * (left[:, :rank] @ right[:rank]).mean(0), smallest


def projected(jacobian, preferences):
  """Combinations of gradients, [P, K], projected on the dual cone and summed up."""
  lengths, unit = units(jacobian)
  cosine, bound = unit @ unit.T, preferences * lengths
  slope = -bound @ cosine
  excess = np.einsum("sij,pj->spi", inverses(cosine), slope)
  # No excess is a solution too.
  excess = np.concatenate([np.zeros_like(excess[:1]), excess])
  largest = np.abs(excess).max(-1, keepdims=True)
  feasible = np.all(excess >= -1e-9 * largest, axis=-1)
  values = 0.5 * np.sum(excess @ cosine * excess, -1) - np.sum(excess * slope, -1)
  best = np.where(feasible, values, np.inf).argmin(0)
  return (bound + excess[best, np.arange(len(best))]).sum(0) @ unit, lengths.max()


def upgrad(jacobian):
  """The mean of the projected gradients."""
  return projected(jacobian, np.eye(len(jacobian)) / len(jacobian))


def dualproj(jacobian):
  """The projected mean of the gradients."""
  return projected(jacobian, np.full((1, len(jacobian)), 1 / len(jacobian)))


def mgda(jacobian):
  """The shortest vector of the convex hull."""
  lengths, unit = units(jacobian)
  cosine = unit @ unit.T
  if cosine.min() < -1 + 1e-12:
    return np.zeros(jacobian.shape[1]), lengths.min()
  weights = inverses(cosine) @ (lengths.min() / lengths) / lengths
  weights = weights[np.all(weights >= 0, axis=1)]
  vectors = weights / weights.sum(1, keepdims=True) @ jacobian
  return vectors[np.linalg.norm(vectors, axis=1).argmin()], lengths.min()


def imtl_g(jacobian):
  """The combination of weights ``C⁺ 1 / ‖g‖``, divided by their sum."""
  lengths, unit = units(jacobian)
  inverse = np.linalg.pinv(unit, rcond=1e-5)
  weights = inverse.T @ inverse.sum(1) * lengths.min() / lengths
  if np.abs(weights).sum() < 1e-12:
    return np.zeros(jacobian.shape[1]), lengths.min()
  return weights / weights.sum() @ jacobian, lengths.min()


def config(jacobian):
  """The direction ``U⁺ 1``, as long as the sum of the gradients' projections on it."""
  lengths, unit = units(jacobian)
  direction = np.linalg.pinv(unit, rcond=1e-5).sum(1)
  squared = direction @ direction
  if squared < 1e-12:
    return np.zeros_like(direction), lengths.max()
  return (jacobian @ direction).sum() / squared * direction, lengths.max()


def vaccinated(jacobian, orders, goal):
  """The sum of the gradients, each turned until its cosines reach the goal.

  Args:
    jacobian: [K, D].
    orders: [K, K]: the order in which each task meets the others.
    goal: The least cosine; with 0, this is PCGrad.
  """
  lengths, unit = units(jacobian)
  turned = jacobian.copy()
  for task, order in enumerate(orders):
    for other in order[order != task]:
      length = np.linalg.norm(turned[task])
      if length == 0:
        continue
      cosine = np.clip(unit[other] @ turned[task] / length, -1, 1)
      sine = np.sqrt(1 - cosine**2)
      added = length * (goal * sine / np.sqrt(1 - goal**2) - cosine)
      turned[task] += (cosine < goal) * added * unit[other]
  return turned.sum(0), lengths.max()


def cagrad(jacobian, c):
  """The vector within ``c ‖g_0‖`` of the mean with the largest smallest gain."""
  mean = jacobian.mean(0)
  radius = c * np.linalg.norm(mean)
  return mean + best_offset(jacobian, jacobian @ mean, radius)


def conicgrad(jacobian, c):
  """The vector as long as the mean, within the cone, with the largest smallest gain."""
  mean = jacobian.mean(0)
  length = np.linalg.norm(mean)
  axis = mean / length
  side = jacobian - np.outer(jacobian @ axis, axis)
  inside = best_offset(jacobian, np.zeros(len(jacobian)), length)
  if inside @ axis >= c * length:
    return inside
  sine = np.sqrt(1 - c * c)
  return c * mean + best_offset(side, c * jacobian @ mean, sine * length)


def best_offset(jacobian, gains, radius):
  """The u of length ``radius`` with the largest ``min_k gains_k + ⟨g_k, u⟩``.

  The tasks of a set gain equally, by ``level``, if ``u = level a - b`` with the vectors
  a and b in the span of their gradients; the length of u makes the level the root of a
  quadratic equation.
  """
  lengths, unit = units(jacobian)
  cosine = unit @ unit.T
  found = inverses(cosine)
  scale = lengths.min()
  a, b = found @ (scale / lengths), found @ (gains / lengths)
  aa, ab, bb = (np.sum(x @ cosine * y, -1) for x, y in ((a, a), (a, b), (b, b)))
  root = np.sqrt(np.maximum(ab**2 - aa * (bb - radius**2), 0))
  levels = np.concatenate([(ab + root) / aa, (ab - root) / aa])
  offsets = (levels[:, None] * np.tile(a, (2, 1)) - np.tile(b, (2, 1))) @ unit
  right_length = np.abs(np.linalg.norm(offsets, axis=1) - radius) <= 1e-9 * radius
  smallest = (gains + offsets @ jacobian.T).min(1)
  return offsets[np.where(right_length, smallest, -np.inf).argmax()]
