"""The Burgers equation ``u_t + u u_x = ν u_xx`` for x in [-1, 1] and t in [0, 1].

``u = -sin(π x)`` at the start and 0 at both ends; a shock forms at x = 0. A batch holds
``points`` [N, 3, 2], pairs (x, t): of each example a point inside, one at an end, one
at the start. The batches of an evaluation also hold ``solution`` [N].

References:
  Basdevant et al., Spectral and finite difference solutions of the Burgers equation,
  Computers & Fluids 14, 1986, which has this solution.
"""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.experiments.problem import Problem
from benchmarks.experiments.problems.pinn.network import (
  Field,
  derivative,
  second_derivative,
)
from benchmarks.experiments.problems.pinn.points import Domain, draw_in_time
from benchmarks.experiments.problems.pinn.problem import (
  Equation,
  Misfits,
  NetworkSettings,
  problem_of,
)

DOMAIN: Domain = ((-1.0, 1.0), (0.0, 1.0))
VISCOSITY = 0.01 / np.pi  # ν
_NODES = 128


def make_problem(settings: NetworkSettings) -> Problem:
  """Makes the problem, which needs no data."""
  equation = Equation(
    title="Burgers equation",
    domain=DOMAIN,
    places=3,
    draw=draw_in_time(DOMAIN),
    evaluate=evaluate,
    misfits=_misfits,
    scales=_scales,
    solution=exact,
    tabulated=True,
  )
  return problem_of(equation, settings)


def exact(points: np.ndarray, nodes: int = _NODES) -> np.ndarray:
  """Computes the solution at points [N, 2], in float64, by the Cole-Hopf transform.

  ``u = -∫ sin(π y) p(y) dy / ∫ p(y) dy`` where p is the initial condition's factor
  ``exp(-cos(π y) / (2 π ν))`` times a normal density with mean x and variance 2 ν t.
  Gauss-Hermite quadrature takes both integrals; p is computed from its logarithm,
  because it spans 40 orders of magnitude.

  Args:
    points: Pairs (x, t).
    nodes: Nodes of the quadrature.
  """
  node, weight = np.polynomial.hermite.hermgauss(nodes)
  x, t = points[:, :1], points[:, 1:]
  y = x - np.sqrt(4 * VISCOSITY * t) * node
  log_p = np.log(weight) - np.cos(np.pi * y) / (2 * np.pi * VISCOSITY)
  p = np.exp(log_p - log_p.max(axis=1, keepdims=True))
  return -np.sum(np.sin(np.pi * y) * p, axis=1) / np.sum(p, axis=1)


def evaluate(solution: Field, points: jax.Array) -> dict[str, jax.Array]:
  """Computes u and derivatives, each [N], inside, at the ends and at the start."""
  inside, boundary, start = points[:, 0], points[:, 1], points[:, 2]
  return {
    "inside": solution(inside),
    "u_x": derivative(solution, 0)(inside),
    "u_t": derivative(solution, 1)(inside),
    "u_xx": second_derivative(solution, 0)(inside),
    "boundary": solution(boundary),
    "start": solution(start),
  }


def _misfits(outputs: dict[str, jax.Array], points: jax.Array) -> dict[str, Misfits]:
  carried = outputs["u_t"] + outputs["inside"] * outputs["u_x"]
  return {
    "boundary": (outputs["boundary"],),
    "initial": (outputs["start"] + jnp.sin(jnp.pi * points[:, 2, 0]),),
    "residual": (carried - VISCOSITY * outputs["u_xx"],),
  }


def _scales(points: jax.Array) -> dict[str, jax.Array]:
  """Computes the residual of the initial condition at all times, the boundary's loss of
  u = 1, and the initial loss of u = 0.
  """
  inside, start = jnp.pi * points[:, 0, 0], jnp.pi * points[:, 2, 0]
  steepness = jnp.pi * jnp.sin(inside) * jnp.cos(inside)  # u u_x
  residual = steepness - VISCOSITY * jnp.pi**2 * jnp.sin(inside)
  return {
    "boundary": jnp.ones(()),
    "initial": jnp.mean(jnp.sin(start) ** 2),
    "residual": jnp.mean(residual**2),
  }


SETTINGS = NetworkSettings
