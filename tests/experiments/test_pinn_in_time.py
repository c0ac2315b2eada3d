"""Tests the physics-informed networks of equations in space and time."""

import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy.integrate import solve_ivp

from benchmarks.experiments import __main__
from benchmarks.experiments.problems.pinn import burgers, klein_gordon, network
from benchmarks.experiments.problems.pinn.points import draw_in_time, grid
from benchmarks.experiments.problems.pinn.problem import NetworkSettings
from benchmarks.methods import Setting, named
from maxgnr_jax import aggregator_state
from tests.helpers.marks import thorough_but

pytestmark = pytest.mark.usefixtures("quick_experiments")

EQUATIONS = {"klein-gordon": klein_gordon, "burgers": burgers}
by_equation = pytest.mark.parametrize("equation", EQUATIONS.values(), ids=EQUATIONS)


@by_equation
def test_points_lie_inside_at_the_ends_and_at_the_start(equation):
  problem = equation.make_problem(NetworkSettings())
  assert problem.tasks == ("boundary", "initial", "residual")
  batches = problem.train_batches(400, 3)
  points = batches[7]["points"]
  assert points.shape == (400, 3, 2)
  assert points.dtype == np.float32
  ((left, right), (start, end)) = equation.DOMAIN
  inside, boundary, initial = np.moveaxis(points, 1, 0)
  for axis, (low, high) in enumerate(equation.DOMAIN):
    assert low < inside[:, axis].min() < inside[:, axis].max() < high
    np.testing.assert_allclose(inside[:, axis].mean(), (low + high) / 2, atol=0.1)
  for x in (left, right):
    assert 150 < (boundary[:, 0] == x).sum() < 250
  assert start < boundary[:, 1].min() < boundary[:, 1].max() < end
  assert (initial[:, 1] == start).all()
  assert left < initial[:, 0].min() < initial[:, 0].max() < right
  again = equation.make_problem(NetworkSettings()).train_batches(400, 3)
  chex.assert_trees_all_equal(batches[7], again[7])
  for other in (batches[8], problem.train_batches(400, 4)[7]):
    assert (other["points"][:, 0] != points[:, 0]).all()


def test_grid_covers_the_domain_with_or_without_its_boundary():
  corners = [[-1, 0], [-1, 2], [1, 0], [1, 2]]
  whole = grid(((-1, 1), (0, 2)), 2, 3)["points"]
  assert whole.shape == (4, 3, 2)
  np.testing.assert_array_equal(whole[:, 0], corners)
  np.testing.assert_array_equal(whole[:, 2], corners)
  inner = grid(((-1, 1), (0, 2)), 2, 3, inset=0.25)["points"]
  np.testing.assert_allclose(
    inner[:, 0], [[-0.5, 0.5], [-0.5, 1.5], [0.5, 0.5], [0.5, 1.5]]
  )


def test_derivatives_are_those_of_the_network():
  net = network.Network(8, 2, lambda solution, points: {}, nnx.Rngs(0))
  points = draw_in_time(((-1, 1), (0, 1)))(np.random.default_rng(0), 5)[:, 0]
  points = jnp.asarray(points, jnp.float32)

  def at(point):
    return net.solution(point[None])[0]

  gradient, hessian = (jax.vmap(f(at))(points) for f in (jax.grad, jax.hessian))
  for axis in (0, 1):
    first = network.derivative(net.solution, axis)(points)
    np.testing.assert_allclose(first, gradient[:, axis], rtol=1e-4, atol=1e-6)
    second = network.second_derivative(net.solution, axis)(points)
    np.testing.assert_allclose(second, hessian[:, axis, axis], rtol=1e-3, atol=1e-5)


def test_last_layer_gives_the_solution():
  params = nnx.state(network.Network(4, 3, lambda u, x: {}, nnx.Rngs(0)), nnx.Param)
  marked = network.last_layer(params)
  sizes = jax.tree.map(lambda x, is_last: x.size * is_last, params, marked)
  assert sorted(jax.tree.leaves(sizes)) == [*[0] * 6, 1, 4]
  assert len(set(jax.tree.leaves(network.layers(params)))) == 4


# --- Klein-Gordon ---


def test_source_is_the_left_hand_side_of_the_solution_by_finite_differences():
  points = np.random.default_rng(0).uniform(0, 1, (50, 2))

  def u(x, t):
    return x * np.cos(5 * np.pi * t) + (x * t) ** 3

  (x, t), h = points.T, 1e-4
  u_xx = (u(x + h, t) - 2 * u(x, t) + u(x - h, t)) / h**2
  u_tt = (u(x, t + h) - 2 * u(x, t) + u(x, t - h)) / h**2
  found = klein_gordon.source(jnp.asarray(points, jnp.float32))
  np.testing.assert_allclose(found, u_tt - u_xx + u(x, t) ** 3, atol=2e-3)


def test_solution_of_the_klein_gordon_equation_has_no_loss():
  problem = klein_gordon.make_problem(NetworkSettings())
  batch = problem.train_batches(64, 0)[0]
  points = jnp.asarray(batch["points"])
  outputs = klein_gordon.evaluate(klein_gordon.exact, points)
  zero = jax.tree.map(jnp.zeros_like, outputs)
  nothing = problem.losses(zero, batch)
  for task, loss in problem.losses(outputs, batch).items():
    assert loss < 1e-8 * nothing[task], task
    assert nothing[task] > 0.1
  assert_kpis(problem.kpis(outputs, batch), 1)
  assert_kpis(problem.kpis(zero, batch), 0)
  moving = outputs | {"u_t at the start": jnp.full(64, 2.0)}
  assert problem.losses(moving, batch)["initial"] == pytest.approx(4)
  assert relative_error(problem, batch, 0.9 * outputs["inside"]) == pytest.approx(0.1)


def assert_kpis(kpis, expected):
  assert set(kpis) == {"boundary", "initial", "residual"}
  np.testing.assert_allclose([*kpis.values()], expected, atol=1e-5)


def relative_error(problem, batch, inside):
  sums = problem.sums({"inside": inside}, batch)
  return problem.summarise({k: np.asarray(v) for k, v in sums.items()})["error"]


# --- Burgers ---


def collocated(times, degree=96):
  """Solves the equation on [0, 1] by Chebyshev collocation; u is odd in x."""
  angle = np.pi * np.arange(degree + 1) / degree
  x, scale = np.cos(angle), np.ones(degree + 1)
  scale[[0, -1]] = 2
  scale *= (-1.0) ** np.arange(degree + 1)
  difference = x[:, None] - x[None] + np.eye(degree + 1)
  slope = np.outer(scale, 1 / scale) / difference
  slope -= np.diag(slope.sum(1))
  x, slope = (x + 1) / 2, 2 * slope
  curvature = slope @ slope

  def change(_, u):
    whole = np.concatenate([[0], u, [0]])
    change = burgers.VISCOSITY * curvature @ whole - whole * (slope @ whole)
    return change[1:-1]

  start = -np.sin(np.pi * x[1:-1])
  found = solve_ivp(change, (0, times[-1]), start, "BDF", times, rtol=1e-8, atol=1e-9)
  return x[1:-1], found.y.T


def test_quadrature_agrees_with_a_numerical_solution_of_the_burgers_equation():
  times = [0.1, 0.3, 0.5, 0.7, 1.0]
  x, expected = collocated(times)
  for t, values in zip(times, expected, strict=True):
    found = burgers.exact(np.stack([x, np.full_like(x, t)], axis=1))
    np.testing.assert_allclose(found, values, atol=1e-5)
    mirrored = burgers.exact(np.stack([-x, np.full_like(x, t)], axis=1))
    np.testing.assert_allclose(mirrored, -found, atol=1e-12)


def test_quadrature_has_converged_and_keeps_the_side_conditions():
  points = np.stack(np.meshgrid(np.linspace(-1, 1, 41), [0, 0.4, 1.0]), -1)
  points = points.reshape(-1, 2)
  found = burgers.exact(points)
  np.testing.assert_allclose(found, burgers.exact(points, 160), atol=1e-6)
  start = points[:, 1] == 0
  np.testing.assert_allclose(found[start], -np.sin(np.pi * points[start, 0]))
  np.testing.assert_allclose(found[abs(points[:, 0]) == 1], 0, atol=1e-12)


def smooth_field(points):
  """Has closed derivatives: u = x t + t² - x³."""
  x, t = points[:, 0], points[:, 1]
  return x * t + t**2 - x**3


def test_losses_of_the_burgers_equation_are_those_of_its_formula():
  problem = burgers.make_problem(NetworkSettings())
  batch = problem.train_batches(64, 0)[0]
  outputs = burgers.evaluate(smooth_field, jnp.asarray(batch["points"]))
  points = batch["points"].astype(np.float64)
  x, t = points[:, 0].T
  u = x * t + t**2 - x**3
  residual = (x + 2 * t) + u * (t - 3 * x**2) - 0.01 / np.pi * (-6 * x)
  start = points[:, 2, 0]
  expected = {
    "boundary": np.mean(smooth_field(points[:, 1]) ** 2),
    "initial": np.mean((-(start**3) + np.sin(np.pi * start)) ** 2),
    "residual": np.mean(residual**2),
  }
  assert problem.losses(outputs, batch) == pytest.approx(expected, rel=1e-4)


def test_indicators_of_the_burgers_equation_compare_with_the_initial_condition():
  problem = burgers.make_problem(NetworkSettings())
  batch = problem.train_batches(64, 0)[0]
  at_rest = burgers.evaluate(
    lambda points: -jnp.sin(jnp.pi * points[:, 0]), jnp.asarray(batch["points"])
  )
  kpis = problem.kpis(at_rest, batch)
  expected = {"boundary": 1, "initial": 1, "residual": 0}
  assert kpis == pytest.approx(expected, abs=1e-4)


def test_evaluations_of_the_burgers_equation_hold_its_solution():
  problem = burgers.make_problem(NetworkSettings())
  for split, side in (("test", 101), ("validation", 100)):
    (batch,) = problem.evaluation_batches(split)
    assert batch["solution"].shape == (side**2,)
    assert batch["solution"].dtype == np.float32
    expected = burgers.exact(batch["points"][::500, 0].astype(float))
    np.testing.assert_allclose(batch["solution"][::500], expected, atol=1e-6)
    error = relative_error(problem, batch, 1.1 * batch["solution"])
    assert error == pytest.approx(0.1, rel=1e-4)
  assert not list(
    burgers.make_problem(NetworkSettings(validation=0)).evaluation_batches("validation")
  )


# --- Both ---


def test_row_of_jaxpi_has_the_ratios_of_its_averaged_weights():
  random = np.random.default_rng(0)
  method = named("jaxpi-grad-norm")
  tx = method.make(Setting(3, lambda params: True, 100))
  state, logs = tx.init(jnp.zeros(4)), np.zeros(3)
  for _ in range(5):  # refreshes
    grads = random.normal(size=(3, 4)) * 10.0 ** random.uniform(-2, 2, (3, 1))
    norms = np.linalg.norm(grads, axis=1)
    logs = 0.9 * logs + 0.1 * np.log(norms.mean() / norms)
    _, state = tx.update(jnp.asarray(grads, jnp.float32), state, jnp.zeros(4))
  found = np.log(aggregator_state(state).weights)
  logs /= 1 - 0.9**5  # as if there had been weights before the first
  np.testing.assert_allclose(found - found[0], logs - logs[0], atol=1e-3)
  assert method.refresh_every == 100


@pytest.mark.parametrize("name", thorough_but(["burgers"], EQUATIONS))
def test_network_is_trained_from_the_command_line(name, tmp_path, capsys):
  arguments = [name, "train", "--out", str(tmp_path), "--method", "imtl-l"]
  for setting, value in {
    "batch-size": 16,
    "points-per-epoch": 64,
    "steps-per-call": 4,
    "epochs": 2,
    "hidden": 4,
    "layers": 2,
    "learning-rate": 1e-2,
  }.items():
    arguments += [f"--{setting}", str(value)]
  __main__.main(arguments)
  assert "solution relative L2 error" in capsys.readouterr().out
  result = json.loads((tmp_path / "result.json").read_text())
  last = result["history"][-1]
  assert set(last["loss"]) == {"boundary", "initial", "residual"}
  assert all(np.isfinite(loss) for loss in last["loss"].values())
  assert 0 < last["test"]["error"] < 10
