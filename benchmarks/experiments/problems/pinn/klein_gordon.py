"""The Klein-Gordon equation ``u_tt - u_xx + u³ = f`` for x and t in [0, 1].

f is such that ``u = x cos(5 π t) + (x t)³``, which is given at both ends of space and,
together with its first derivative in time, at t = 0. A batch holds ``points``
[N, 3, 2], pairs (x, t): of each example a point inside, one at an end, one at the
start.
"""

import jax
import jax.numpy as jnp

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

DOMAIN: Domain = ((0.0, 1.0), (0.0, 1.0))
_FREQUENCY = 5 * jnp.pi


def make_problem(settings: NetworkSettings) -> Problem:
  """Makes the problem, which needs no data."""
  equation = Equation(
    title="Klein-Gordon equation",
    domain=DOMAIN,
    places=3,
    draw=draw_in_time(DOMAIN),
    evaluate=evaluate,
    misfits=_misfits,
    scales=_scales,
    solution=exact,
  )
  return problem_of(equation, settings)


def exact(points: jax.Array) -> jax.Array:
  """Computes the solution at points [N, 2]."""
  x, t = points[:, 0], points[:, 1]
  return x * jnp.cos(_FREQUENCY * t) + (x * t) ** 3


def source(points: jax.Array) -> jax.Array:
  """Computes f at points [N, 2], with u_tt and u_xx of the solution."""
  x, t = points[:, 0], points[:, 1]
  u_tt = -(_FREQUENCY**2) * x * jnp.cos(_FREQUENCY * t) + 6 * x**3 * t
  u_xx = 6 * x * t**3
  return u_tt - u_xx + exact(points) ** 3


def evaluate(solution: Field, points: jax.Array) -> dict[str, jax.Array]:
  """Computes u and derivatives, each [N], inside, at the ends and at the start."""
  inside, boundary, start = points[:, 0], points[:, 1], points[:, 2]
  return {
    "inside": solution(inside),
    "u_xx": second_derivative(solution, 0)(inside),
    "u_tt": second_derivative(solution, 1)(inside),
    "boundary": solution(boundary),
    "start": solution(start),
    "u_t at the start": derivative(solution, 1)(start),
  }


def _misfits(outputs: dict[str, jax.Array], points: jax.Array) -> dict[str, Misfits]:
  inside, boundary, start = points[:, 0], points[:, 1], points[:, 2]
  equation = outputs["u_tt"] - outputs["u_xx"] + outputs["inside"] ** 3
  return {
    "boundary": (outputs["boundary"] - exact(boundary),),
    # u_t = 0 there
    "initial": (outputs["start"] - exact(start), outputs["u_t at the start"]),
    "residual": (equation - source(inside),),
  }


def _scales(points: jax.Array) -> dict[str, jax.Array]:
  """Computes the losses of u = 0."""
  inside, boundary, start = points[:, 0], points[:, 1], points[:, 2]
  return {
    "boundary": jnp.mean(exact(boundary) ** 2),
    "initial": jnp.mean(exact(start) ** 2),
    "residual": jnp.mean(source(inside) ** 2),
  }


SETTINGS = NetworkSettings
