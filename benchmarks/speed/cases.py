"""Makes gradients to aggregate, and the functions of JAX that are timed on them."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.speed.timing import Run
from maxgnr_jax import GradientStats, maxgnr, projected_newton


class Case(NamedTuple):
  """The size of a problem: K tasks' gradients of D parameters in some arrays.

  Attributes:
    tasks: K.
    parameters: D.
    leaves: Number of arrays. Half of more than 20 are small, as biases are.
    dtype: The dtype of gradients, momentum and update.
  """

  tasks: int
  parameters: int
  leaves: int
  dtype: str = "float32"

  def shapes(self) -> list[tuple[int, ...]]:
    """Lists the parameters' shapes: kernels with two axes, and biases."""
    small = self.leaves // 2 if self.leaves > 20 else 0
    kernel = max(1, (self.parameters - 512 * small) // (self.leaves - small))
    rows = max(1, kernel // 1024)
    shape: tuple[int, ...] = (rows, 1024) if kernel >= 1024 else (kernel,)
    return [shape] * (self.leaves - small) + [(512,)] * small

  def floor_bytes(self) -> int:
    """Counts the bytes of :meth:`floor` numbers."""
    return self.floor() * jnp.dtype(self.dtype).itemsize

  def floor(self) -> int:
    """Counts the numbers that a step with momentum must move, ``(4 K + 1) D``."""
    return (4 * self.tasks + 1) * sum(map(int, map(np.prod, self.shapes())))


def gradients(case: Case) -> list[jax.Array]:
  """Draws normally distributed gradients, stacked over the tasks."""
  rng = np.random.default_rng(0)
  return [
    jnp.asarray(rng.standard_normal((case.tasks, *shape), np.float32), case.dtype)
    for shape in case.shapes()
  ]


class Update(Run):
  """A compiled ``update`` on gradients of the case."""

  def __init__(
    self,
    tx: optax.GradientTransformation,
    case: Case,
    extra_args: dict[str, Any] | None = None,
  ):
    params = [jnp.zeros(shape, case.dtype) for shape in case.shapes()]
    grads = gradients(case)
    self.gradient_bytes = sum(g.nbytes for g in grads)

    def update(state, grads, params):
      return tx.update(grads, state, params, **(extra_args or {}))

    super().__init__(update, tx.init(params), grads, params)

  def temporary_share(self) -> float:
    """Computes temporary memory in units of the gradients' bytes."""
    return self.temporary_bytes() / self.gradient_bytes


def copy(case: Case) -> Run:
  """Makes a copy by JAX that reads and writes the bytes that a step must move."""

  def negative(state, numbers):
    return -numbers, state

  return Run(negative, None, jnp.zeros(case.floor() // 2, case.dtype))


def solver(case: Case) -> Run:
  """Makes a run of the default solver alone."""
  rng = np.random.default_rng(0)
  noise = rng.standard_normal((case.tasks, 2 * case.tasks))
  noise /= np.linalg.norm(noise, axis=1, keepdims=True)
  norms = jnp.asarray(rng.uniform(0.1, 1, (2, case.tasks)), jnp.float32)
  cosine = jnp.asarray(noise @ noise.T, jnp.float32)

  def solve(state, stats):
    return projected_newton().solve(stats), state

  return Run(solve, None, GradientStats(norms[0], norms[1], cosine))


def naive(case: Case, gamma: float = 0.9) -> optax.GradientTransformationExtraArgs:
  """Makes MaxGNR as one would write it down, to compare the library's speed with."""
  reference = maxgnr(gamma, num_tasks=case.tasks)

  def update(grads, state, params=None):
    decay = jnp.where(state.count == 0, 0.0, gamma)
    momentum = jax.tree.map(
      lambda m, g: (decay * m + (1 - decay) * g).astype(m.dtype), state.momentum, grads
    )
    noise = jax.tree.map(jnp.subtract, grads, momentum)
    wide = {"preferred_element_type": jnp.float32}
    gram = sum(
      jnp.einsum("i...,j...->ij", n, n, **wide) for n in jax.tree.leaves(noise)
    )
    squared = sum(
      jnp.einsum("k...,k...->k", m, m, **wide) for m in jax.tree.leaves(momentum)
    )
    stats = state.stats._replace(gradient_norm=jnp.sqrt(squared))
    norm = jnp.sqrt(jnp.diagonal(gram))
    divisor = jnp.where(norm > 0, norm, 1.0)
    stats = stats._replace(
      noise_norm=norm, noise_cosine=gram / divisor[:, None] / divisor[None, :]
    )
    weights = projected_newton().solve(stats)
    updates = jax.tree.map(
      lambda g: jnp.einsum("k,k...->...", weights.astype(g.dtype), g), grads
    )
    return updates, state._replace(
      count=state.count + 1, momentum=momentum, stats=stats, weights=weights
    )

  return optax.GradientTransformationExtraArgs(reference.init, update)
