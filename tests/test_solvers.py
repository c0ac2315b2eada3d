"""Solvers of Eq. 17, against the optimum, its conditions and its invariances."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.accuracy import battery as solver_battery
from benchmarks.accuracy import reference
from benchmarks.accuracy.battery import Problem, gradient_stats
from maxgnr_jax import (
  GradientStats,
  certificate,
  projected_gradient,
  projected_newton,
  steepest_descent,
)
from tests.helpers.marks import thorough_but

pytestmark = pytest.mark.usefixtures("quick_compilation")
OPTIMAL = {"newton": projected_newton(), "gradient": projected_gradient()}
SOLVERS = {**OPTIMAL, "paper": steepest_descent()}
every_solver = pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
optimal_solver = pytest.mark.parametrize("solver", OPTIMAL.values(), ids=OPTIMAL)
seeds = st.integers(0, 2**32 - 1)


def random_problem(seed, num_tasks=5):
  rng = np.random.default_rng(seed)
  noise = rng.normal(size=(num_tasks, num_tasks + 1))
  return Problem(10 ** rng.uniform(-2, 2, num_tasks), noise)


def solve(problem, solver=SOLVERS["newton"]):
  return np.asarray(solver.solve(gradient_stats(problem)), np.float64)


def assert_on_simplex(weights):
  assert np.all(weights >= 0)
  assert np.sum(weights) == pytest.approx(1, abs=1e-6)


def assert_proportional(weights, expected, rtol=1e-5):
  np.testing.assert_allclose(weights, expected / np.sum(expected), rtol=rtol)


@pytest.mark.parametrize(
  "num_tasks", thorough_but([3, 10, 64], [*solver_battery.NUM_TASKS, 128])
)
@pytest.mark.usefixtures("usual_compilation")
def test_projected_newton_reaches_the_optimum_on_the_battery(num_tasks):
  seeds = 10 if num_tasks <= 20 else 2
  ratio = solver_battery.worst_ratio(projected_newton(), num_tasks, seeds=seeds)
  assert ratio >= 0.999


@pytest.mark.parametrize("num_tasks", [3, 40])
def test_projected_gradient_reaches_the_optimum_on_the_battery(num_tasks):
  ratio = solver_battery.worst_ratio(projected_gradient(), num_tasks, seeds=3)
  assert ratio >= 0.999


@pytest.mark.parametrize("num_tasks", thorough_but([3, 16], [2, 3, 5, 10, 16, 40]))
def test_projected_newton_reaches_the_optimum_where_noises_nearly_cancel(num_tasks):
  ratio = solver_battery.worst_ratio(
    projected_newton(), num_tasks, conditions=(10_000,), seeds=3
  )
  assert ratio >= 0.999


@optimal_solver
@pytest.mark.parametrize(("num_tasks", "seed"), [(40, 41), (64, 360)])
def test_the_optimum_is_reached_on_the_hardest_known_problems(solver, num_tasks, seed):
  # Each is the worst of a thousand draws for projected gradient steps.
  problem = solver_battery.problem(
    solver_battery.one_common_noise, num_tasks, 1000, 1, seed
  )
  ratio = solver_battery.ratio_to_optimum(solve(problem, solver), problem)
  assert ratio >= 0.999


@pytest.mark.parametrize("kind", solver_battery.KINDS[1:])
@pytest.mark.parametrize("condition_number", solver_battery.CONDITION_NUMBERS)
def test_battery_problems_have_the_requested_condition_number_and_scales(
  kind, condition_number
):
  problem = solver_battery.problem(kind, 20, condition_number, 6, 0)
  norms = np.linalg.norm(problem.noise, axis=1)
  cosine = problem.noise @ problem.noise.T / np.outer(norms, norms)
  assert np.linalg.cond(cosine) <= condition_number * 1.001
  assert np.linalg.cond(cosine) >= condition_number / 5
  assert np.ptp(np.log10(norms)) == pytest.approx(6)
  assert np.ptp(np.log10(problem.momentum_norm)) == pytest.approx(6)


@pytest.mark.parametrize("num_tasks", [2, 10, 64])
@pytest.mark.parametrize("kind", solver_battery.KINDS)
def test_no_solution_is_better_than_the_reference_optimum(kind, num_tasks):
  ratios = solver_battery.ratios_to_optimum(
    projected_newton(), kind, num_tasks, 1000, 6
  )
  assert ratios.max() <= 1 + 1e-6


@pytest.mark.parametrize("kind", solver_battery.KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_solutions_satisfy_the_karush_kuhn_tucker_conditions(kind, seed):
  # The conditions of Karush, Kuhn and Tucker, as angles: at the optimum a task's
  # noise has no component against the combined noise, else more of it would cancel,
  # and none along it either where the task got more than w ∝ 1/‖m‖ asks.
  problem = solver_battery.problem(kind, 10, 100, 1, seed)
  weights = solve(problem)
  combined = weights @ problem.noise
  along = problem.noise @ combined / np.linalg.norm(combined)
  along /= np.linalg.norm(problem.noise, axis=1)
  signal = weights * problem.momentum_norm
  raised = signal > 1.01 * signal.min()
  assert np.all(along > -2e-3)
  assert np.all(np.abs(along[raised]) < 2e-3)


@every_solver
@given(seed=seeds)
def test_weights_are_on_the_simplex_and_no_worse_than_equal_weights(solver, seed):
  problem = random_problem(seed)
  weights = solve(problem, solver)
  assert_on_simplex(weights)
  value = reference.smallest_gnr(weights, *problem)
  assert value >= (1 - 1e-5) * reference.smallest_gnr(np.full(5, 1 / 5), *problem)


@given(seed=seeds, other=seeds)
def test_no_random_weights_beat_the_optimum(seed, other):
  problem = random_problem(seed)
  rivals = np.random.default_rng(other).dirichlet(np.ones(5), size=100)
  best = max(reference.smallest_gnr(rival, *problem) for rival in rivals)
  assert reference.smallest_gnr(solve(problem), *problem) >= (1 - 1e-4) * best


# Fixed steps amplify rounding errors where the GNR is steep, hence a single step.
DETERMINATE = {**OPTIMAL, "paper": steepest_descent(num_steps=1)}


@given(seed=seeds, data=st.data())
def test_permuting_tasks_permutes_the_weights(seed, data):
  problem = random_problem(seed)
  order = list(data.draw(st.permutations(range(5))))
  permuted = Problem(problem.momentum_norm[order], problem.noise[order])
  for solver in DETERMINATE.values():
    np.testing.assert_allclose(
      solve(permuted, solver), solve(problem, solver)[order], rtol=1e-3, atol=1e-6
    )


@given(seed=seeds, exponents=st.tuples(*[st.sampled_from([-15, 0, 15])] * 5))
def test_rescaling_tasks_does_not_change_the_updates_direction(seed, exponents):
  problem = random_problem(seed)
  scale = 10.0 ** np.array(exponents)
  rescaled = Problem(scale * problem.momentum_norm, scale[:, None] * problem.noise)
  in_units_of_before = solve(rescaled) * scale
  assert_proportional(
    in_units_of_before / np.sum(in_units_of_before), solve(problem), rtol=1e-3
  )


@given(seed=seeds, exponent=st.integers(-15, 15))
def test_rescaling_all_tasks_does_not_change_the_weights(seed, exponent):
  problem = random_problem(seed)
  rescaled = Problem(*(10.0**exponent * x for x in problem))
  for solver in DETERMINATE.values():
    np.testing.assert_allclose(
      solve(rescaled, solver), solve(problem, solver), rtol=1e-3, atol=1e-6
    )


@given(seed=seeds, num_tasks=st.sampled_from([2, 5, 64]))
def test_uncorrelated_noise_gives_weights_inverse_to_the_gradients(seed, num_tasks):
  rng = np.random.default_rng(seed)
  momentum_norm, noise_norm = 10 ** rng.uniform(-3, 3, (2, num_tasks))
  weights = solve(Problem(momentum_norm, np.diag(noise_norm)))
  assert_proportional(weights, 1 / momentum_norm)


def test_without_noise_the_weights_are_inverse_to_the_gradients():
  momentum_norm = np.array([1.0, 10.0, 0.1])
  weights = solve(Problem(momentum_norm, np.zeros((3, 4))))
  assert_proportional(weights, 1 / momentum_norm)


def test_without_noise_steepest_descent_stays_at_equal_weights():
  problem = Problem(np.array([1.0, 10.0, 0.1]), np.zeros((3, 4)))
  np.testing.assert_allclose(solve(problem, SOLVERS["paper"]), 1 / 3, rtol=1e-6)


def test_one_task_without_noise_leaves_the_optimum_reachable():
  problem = random_problem(0)
  problem.noise[2] = 0.0
  np.testing.assert_allclose(
    solve(problem), reference.optimal_weights(*problem), rtol=1e-3
  )
  assert_on_simplex(solve(problem, SOLVERS["paper"]))


@every_solver
@pytest.mark.parametrize("num_tasks", [1, 128])
def test_one_and_128_tasks_get_weights_on_the_simplex(solver, num_tasks):
  weights = solve(random_problem(1, num_tasks), solver)
  assert weights.shape == (num_tasks,)
  assert_on_simplex(weights)


@every_solver
def test_a_single_task_gets_all_the_weight(solver):
  for noise in ([[2.0, 1.0]], [[0.0, 0.0]]):
    assert solve(Problem(np.array([3.0]), np.array(noise)), solver) == 1


def test_tasks_with_the_same_noise_are_weighted_as_if_uncorrelated():
  momentum_norm = np.array([1.0, 2.0, 4.0])
  weights = solve(Problem(momentum_norm, np.ones((3, 1)) * [[1.0, 2.0]]))
  assert_proportional(weights, 1 / momentum_norm)


def test_exactly_opposite_noises_cancel():
  problem = Problem(np.array([1.0, 2.0]), np.array([[3.0, 4.0], [-6.0, -8.0]]))
  # ‖n‖/‖m‖ are 5 and 5, so that w ∝ 1/‖m‖ happens to cancel them already.
  assert_proportional(solve(problem), np.array([2.0, 1.0]))
  raised = problem._replace(momentum_norm=np.array([1.0, 20.0]))
  assert_proportional(solve(raised), np.array([2.0, 1.0]))


@every_solver
def test_opposite_noises_of_equal_size_leave_finite_weights(solver):
  noise = np.array([[1.0, 1.0], [-1.0, -1.0], [0.5, -2.0]])
  assert_on_simplex(solve(Problem(np.ones(3), noise), solver))


@every_solver
@pytest.mark.parametrize("seed", range(20))
def test_noises_that_cancel_at_equal_weights_give_a_very_large_gnr(solver, seed):
  rng = np.random.default_rng(seed)
  noise = rng.normal(size=(3, 8))
  noise[2] = -noise[0] - noise[1]
  problem = Problem(rng.uniform(0.5, 2, 3), noise)
  assert reference.smallest_gnr(solve(problem, solver), *problem) > 1e6


@every_solver
def test_a_task_without_gradient_gets_no_weight_and_changes_no_other_weight(solver):
  problem = random_problem(2)
  rest = Problem(problem.momentum_norm[1:], problem.noise[1:])
  # The task's noise and cosines must not matter.
  problem.momentum_norm[0] = 0.0
  weights = solve(problem, solver)
  assert weights[0] == 0
  np.testing.assert_allclose(weights[1:], solve(rest, solver), rtol=1e-4)


@every_solver
@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_without_any_gradient_a_solver_gives_equal_weights(solver, noise):
  problem = Problem(np.zeros(4), noise * np.eye(4))
  np.testing.assert_allclose(solve(problem, solver), 1 / 4, rtol=1e-6)


@every_solver
def test_solvers_run_batched_and_inside_a_scan(solver):
  problems = [random_problem(seed) for seed in range(4)]
  expected = np.stack([solve(p, solver) for p in problems])
  stats = jax.tree.map(lambda *x: jnp.stack(x), *map(gradient_stats, problems))
  batched = jax.vmap(solver.solve)(stats)
  _, scanned = jax.jit(
    lambda s: jax.lax.scan(lambda carry, x: (carry, solver.solve(x)), None, s)
  )(stats)
  np.testing.assert_allclose(batched, expected, rtol=1e-4)
  np.testing.assert_allclose(scanned, expected, rtol=1e-4)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("learning_rate", [1e-3, 3e-2])
@pytest.mark.parametrize("num_steps", [1, 7, 100])
def test_steepest_descent_follows_an_independent_implementation(
  learning_rate, num_steps
):
  rng = np.random.default_rng(0)
  momentum_norm, noise = np.array([1.0, 2.0, 4.5, 3.0]), rng.normal(size=(4, 6))
  noise_norm = np.linalg.norm(noise, axis=1)
  cosine = noise @ noise.T / np.outer(noise_norm, noise_norm)
  stats = jax.tree.map(jnp.asarray, GradientStats(momentum_norm, noise_norm, cosine))
  expected = reference.steepest_descent_weights(
    momentum_norm, noise, learning_rate, num_steps
  )
  weights = steepest_descent(learning_rate, num_steps).solve(stats)
  assert np.max(np.abs(expected - 1 / 4)) > 1e-5  # there is something to follow
  np.testing.assert_allclose(weights, expected, rtol=1e-9)


def test_the_papers_settings_hardly_leave_equal_weights_and_miss_the_optimum():
  problem = Problem(np.array([0.01, 0.1]), np.array([[1.0, 0.0], [0.5, 1.0]]))
  weights = solve(problem, SOLVERS["paper"])
  np.testing.assert_allclose(weights, 1 / 2, atol=1e-3)
  optimum = reference.smallest_gnr(solve(problem), *problem)
  assert reference.smallest_gnr(weights, *problem) < 0.5 * optimum


def test_the_papers_solver_takes_its_learning_rate_as_an_array():
  stats = GradientStats(jnp.array([1.0, 3.0]), jnp.ones(2), jnp.eye(2))
  weights = steepest_descent(jnp.asarray(1e-3)).solve(stats)
  np.testing.assert_array_equal(weights, steepest_descent(1e-3).solve(stats))


@pytest.mark.thorough
@given(seed=seeds, num_tasks=st.sampled_from([2, 5, 20]))
def test_a_certificate_is_below_the_share_that_weights_reach(seed, num_tasks):
  rng = np.random.default_rng(seed)
  noise = rng.normal(size=(num_tasks, num_tasks + 1))
  problem = Problem(10 ** rng.uniform(-2, 2, num_tasks), noise)
  stats = gradient_stats(problem)
  random = rng.dirichlet(np.ones(num_tasks))
  for weights in (random, np.full(num_tasks, 1 / num_tasks), solve(problem)):
    share = certificate(stats, jnp.asarray(weights, jnp.float32))
    assert 0 <= share <= solver_battery.ratio_to_optimum(weights, problem) + 1e-3


@pytest.mark.parametrize("kind", solver_battery.KINDS)
@pytest.mark.parametrize("num_tasks", [2, 10, 64])
def test_a_certificate_proves_the_optimum(kind, num_tasks):
  problem = solver_battery.problem(kind, num_tasks, 1000, 1, 0)
  stats = gradient_stats(problem)
  proof = certificate(stats, projected_newton().solve(stats))
  assert proof >= 0.99
  assert certificate(stats, steepest_descent().solve(stats)) < proof - 0.01


def test_a_certificate_of_weights_that_leave_nothing_to_gain():
  no_noise = GradientStats(jnp.array([1.0, 2.0]), jnp.zeros(2), jnp.eye(2))
  assert certificate(no_noise, jnp.array([0.5, 0.5])) == 1
  no_gradient = GradientStats(jnp.zeros(2), jnp.ones(2), jnp.eye(2))
  assert certificate(no_gradient, jnp.array([0.5, 0.5])) == 1
  one_gradient = GradientStats(jnp.array([0.0, 2.0]), jnp.ones(2), jnp.eye(2))
  assert certificate(one_gradient, jnp.array([0.0, 1.0])) == pytest.approx(1)


def test_a_certificate_is_zero_if_a_task_with_a_gradient_has_no_weight():
  stats = GradientStats(jnp.array([1.0, 2.0]), jnp.ones(2), jnp.eye(2))
  assert certificate(stats, jnp.array([0.0, 1.0])) == 0


def test_a_matrix_that_is_not_semidefinite_leaves_weights_on_the_simplex():
  # Averages over pairs of tasks that were active together need not be semidefinite.
  cosine = jnp.array([[1.0, 0.9, -0.9], [0.9, 1.0, 0.9], [-0.9, 0.9, 1.0]])
  stats = GradientStats(jnp.array([1.0, 2.0, 3.0]), jnp.ones(3), cosine)
  for solver in OPTIMAL.values():
    assert_on_simplex(np.asarray(solver.solve(stats)))


def test_a_certificate_claims_nothing_where_the_matrix_has_no_inverse():
  cosine = jnp.array([[1.0, 0.9, 0.0], [0.9, 1.0, 0.9], [0.0, 0.9, 1.0]])
  stats = GradientStats(jnp.ones(3), jnp.ones(3), cosine)
  assert np.linalg.eigvalsh(cosine)[0] < 0
  assert certificate(stats, jnp.full(3, 1 / 3)) == 0


def _operations(solver, num_tasks=8):
  """Counts what the steps of a compiled solver execute, from first to last."""
  stats = GradientStats(jnp.ones(num_tasks), jnp.ones(num_tasks), jnp.eye(num_tasks))
  text = jax.jit(solver.solve).lower(stats).compile().as_text()
  (name,) = re.findall(r"while\(.*body=%?([\w.]+)", text)
  (steps,) = re.findall(r'"known_trip_count":\{"n":"(\d+)"', text)
  body = text[text.index(f"\n%{name} ") :].split("\n}")[0]
  return int(steps) * len(re.findall(r" (?:fusion|dot|custom-call)\(", body))


@pytest.mark.usefixtures("usual_compilation")
def test_projected_newton_takes_few_operations():
  # Each is a kernel of its own on an accelerator.
  assert _operations(projected_newton()) < 250


@pytest.mark.thorough
@pytest.mark.usefixtures("usual_compilation")
def test_projected_newton_takes_fewer_operations_than_projected_gradient():
  assert _operations(projected_newton()) < _operations(projected_gradient()) / 8
