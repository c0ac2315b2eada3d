"""The Helmholtz equation ``Δu + k² u = q`` on [-1, 1]², with u given on the boundary.

q is such that ``u = sin(a₁ π x) sin(a₂ π y)``. A batch holds ``points`` [N, 2, 2]: of
each example a point inside and one on the boundary.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.experiments.problem import Problem
from benchmarks.experiments.problems.pinn.network import Field, second_derivative
from benchmarks.experiments.problems.pinn.problem import (
  Equation,
  Misfits,
  NetworkSettings,
  problem_of,
)

WAVE_NUMBER = 1.0  # k


@dataclasses.dataclass(frozen=True, kw_only=True)
class HelmholtzSettings(NetworkSettings):
  """The settings of the solution and the network."""

  waves: tuple[int, int] = (1, 4)
  """Half as many waves as the solution has along x and y."""


def make_problem(settings: HelmholtzSettings) -> Problem:
  """Makes the problem, which needs no data."""
  waves = np.pi * np.array(settings.waves, np.float32)
  # Δu = -(a₁² + a₂²) π² u
  source = float(WAVE_NUMBER**2 - np.sum(waves**2))  # q / u

  def exact(points: jax.Array) -> jax.Array:
    return jnp.prod(jnp.sin(waves[None] * points), axis=-1)

  def misfits(outputs: dict[str, jax.Array], points: jax.Array) -> dict[str, Misfits]:
    inside, boundary = points[:, 0], points[:, 1]
    equation = outputs["laplacian"] + WAVE_NUMBER**2 * outputs["inside"]
    return {
      "boundary": (outputs["boundary"] - exact(boundary),),
      "residual": (equation - source * exact(inside),),
    }

  def scales(points: jax.Array) -> dict[str, jax.Array]:
    """Computes the residual of u = 0, and the boundary's loss of u = 1."""
    zero = jnp.mean((source * exact(points[:, 0])) ** 2)
    return {"boundary": jnp.ones(()), "residual": zero}

  equation = Equation(
    title=f"Helmholtz equation, a = {settings.waves}",
    domain=((-1.0, 1.0), (-1.0, 1.0)),
    places=2,
    draw=_draw,
    evaluate=evaluate,
    misfits=misfits,
    scales=scales,
    solution=exact,
  )
  return problem_of(equation, settings)


def evaluate(solution: Field, points: jax.Array) -> dict[str, jax.Array]:
  """Computes ``inside``, u at the points inside; ``laplacian``, Δu there; ``boundary``,
  u at the points on the boundary.
  """
  inside, boundary = points[:, 0], points[:, 1]
  along_x, along_y = (second_derivative(solution, axis) for axis in (0, 1))
  return {
    "inside": solution(inside),
    "laplacian": along_x(inside) + along_y(inside),
    "boundary": solution(boundary),
  }


def _draw(random: np.random.Generator, size: int) -> np.ndarray:
  points = random.uniform(-1, 1, size=(size, 2, 2))
  rows, axis = np.arange(size), random.integers(2, size=size)
  points[rows, 1, axis] = random.choice([-1.0, 1.0], size=size)
  return points


SETTINGS = HelmholtzSettings
