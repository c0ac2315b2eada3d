"""`diagnostics` returns the state as a flat dict for any logger."""

import collections
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from maxgnr_jax import aggregators, diagnostics, interference, maxgnr, task_names
from tests.helpers.examples import example_params, follow, grads_sequence

pytestmark = pytest.mark.usefixtures("quick_compilation")
NAMES = ["depth", "edges", "normals"]
FIELDS = (
  "weights",
  "gnr",
  "single_task_gnr",
  "gradient_norm",
  "noise_norm",
  "task_count",
  "notfinite_count",
  "zero_count",
)


@functools.cache
def state_after_steps(tx=maxgnr(0.5)):  # noqa: B008
  params = example_params()
  return follow(tx, params, grads_sequence(params, 3, 3))[-1][1]


def test_diagnostics_hold_every_tasks_numbers_under_its_name():
  state = state_after_steps()
  logged = diagnostics(state, NAMES)
  for task, name in enumerate(NAMES):
    assert logged[f"weights/{name}"] == state.weights[task]
    assert logged[f"gnr/{name}"] == state.gnr[task]
    assert logged[f"single_task_gnr/{name}"] == state.single_task_gnr[task]
    assert logged[f"gradient_norm/{name}"] == state.stats.gradient_norm[task]
    assert logged[f"noise_norm/{name}"] == state.stats.noise_norm[task]
    assert logged[f"task_count/{name}"] == state.task_count[task]
    assert logged[f"notfinite_count/{name}"] == state.notfinite_count[task]


def test_diagnostics_hold_who_disturbs_whom():
  state = state_after_steps()
  logged, ratio = diagnostics(state, NAMES), interference(state.stats, state.weights)
  for i, disturbed in enumerate(NAMES):
    for j, by in enumerate(NAMES):
      if i != j:
        np.testing.assert_array_equal(
          logged[f"interference/{disturbed},{by}"], ratio[i, j]
        )


def test_diagnostics_hold_the_noise_cosine_of_every_pair_once():
  state = state_after_steps()
  pairs = {
    key: value
    for key, value in diagnostics(state, NAMES).items()
    if key.startswith("noise_cosine/")
  }
  cosine = state.stats.noise_cosine
  assert pairs == {
    "noise_cosine/depth,edges": cosine[0, 1],
    "noise_cosine/depth,normals": cosine[0, 2],
    "noise_cosine/edges,normals": cosine[1, 2],
  }


def test_diagnostics_hold_only_the_documented_scalars():
  logged = diagnostics(state_after_steps(), NAMES)
  assert len(logged) == len(FIELDS) * 3 + 3 + 6
  chex.assert_shape([*logged.values()], ())


def test_tasks_without_names_are_numbered():
  logged = diagnostics(state_after_steps())
  assert {key.split("/")[1] for key in logged if key.startswith("weights")} == {
    "0",
    "1",
    "2",
  }


def test_the_state_is_found_inside_a_chain():
  chained = optax.chain(maxgnr(0.5), optax.sgd(0.1, momentum=0.9))
  expected = diagnostics(state_after_steps(), NAMES)
  assert diagnostics(state_after_steps(chained), NAMES) == expected


def test_diagnostics_can_be_traced_inside_a_step():
  state = state_after_steps()
  traced = jax.jit(lambda s: diagnostics(s, NAMES))(state)
  np.testing.assert_equal(traced, diagnostics(state, NAMES))


def test_before_the_first_step_diagnostics_need_num_tasks():
  params = example_params()
  assert diagnostics(maxgnr().init(params)) == {}
  assert diagnostics(maxgnr().init(params), certificate=True) == {}
  logged = diagnostics(maxgnr(num_tasks=3).init(params), NAMES)
  assert logged["weights/edges"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("names", [["a"], [], ["a", "b", "c", "d"]])
def test_names_must_be_one_per_task(names):
  with pytest.raises(ValueError, match=rf"one per task, 3 here, got {len(names)}"):
    diagnostics(state_after_steps(), names)


def test_names_before_the_first_step_raise_an_error_that_recommends_num_tasks():
  state = maxgnr().init(example_params())
  with pytest.raises(ValueError, match=r"Before the first step .* `num_tasks`"):
    diagnostics(state, NAMES)


@pytest.mark.parametrize(
  "names",
  [{"b": 1.0, "c": 2.0, "a": 0.5}, collections.namedtuple("Names", "b c a")(*"bca")],
)
def test_names_in_an_order_of_their_own_are_refused(names):
  with pytest.raises(TypeError, match=r"`names` must be a list or a vector in the ord"):
    diagnostics(state_after_steps(), names)


def test_names_that_repeat_are_refused():
  with pytest.raises(ValueError, match="depth"):
    diagnostics(state_after_steps(), ["depth", "depth", "edges"])


def test_a_state_without_maxgnr_is_refused():
  state = optax.sgd(0.1, momentum=0.9).init(example_params())
  with pytest.raises(KeyError, match=r"one state of `maxgnr` or .*, found none"):
    diagnostics(state)


def test_a_state_with_two_aggregators_is_refused():
  params = example_params()
  state = (maxgnr().init(params), maxgnr().init(params))
  with pytest.raises(KeyError, match="part of the state that holds one"):
    diagnostics(state)


def test_diagnostics_of_an_aggregator_hold_every_number_per_task():
  tx = optax.chain(aggregators.slaw(num_tasks=2), optax.sgd(0.1))
  state = tx.init(jnp.zeros(3))
  losses = {"depth": jnp.ones(()), "edges": jnp.zeros(())}
  _, state = tx.update(jnp.ones((2, 3)), state, losses=losses)
  log = diagnostics(state, task_names(losses))
  for name in ("weights", "mean", "variance"):
    assert {f"{name}/depth", f"{name}/edges"} <= set(log)
  assert len(log) == 12  # and the three counts
  assert float(log["mean/depth"]) == 1
