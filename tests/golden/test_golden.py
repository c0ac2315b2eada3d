"""The library against values from TorchJD and LibMTL; see `README.md` here."""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from maxgnr_jax import aggregators
from tests.helpers.marks import thorough_but

pytestmark = pytest.mark.usefixtures("quick_compilation")
GOLDEN = json.loads(pathlib.Path(__file__).with_name("golden.json").read_text())
CASES = {
  f"{case['method']}-{position}-{case['inputs']}": case
  for position, case in enumerate(GOLDEN["cases"])
}
SIZE = 8  # shorter gradients are padded with zeros, so that cases share compilation
OPTIMIZERS = {"sgd": optax.sgd, "adam": optax.adam}
# Our update is the mean over two batches; the source's is that of the first batch.
WEIGHTS_ONLY = ("modo", "sdmgrad")
TOLERANCES = {"excess_mtl": 1e-5}  # LibMTL adds 1e-7 to the squares under the root
# These arguments are traced, so that their values share compilation.
TRACED = ("alpha", "c", "mu")


def make(method, num_tasks, kwargs):
  """The transformation for arguments as they are in the file."""
  kwargs = dict(kwargs)
  if "optimizer" in kwargs:
    name, rate = kwargs["optimizer"]
    kwargs["optimizer"] = OPTIMIZERS[name](rate)
  if method == "famo":
    decay = optax.add_decayed_weights(kwargs.pop("weight_decay"))
    kwargs["optimizer"] = optax.chain(decay, optax.adam(kwargs.pop("learning_rate")))
  if method == "db_mtl":
    kwargs["beta_decay"] = kwargs.pop("beta_sigma")
  return getattr(aggregators, method)(**kwargs, num_tasks=num_tasks)


@functools.cache
def update_of(method, num_tasks, fixed):
  """Compiles once per method, K and static arguments (as JSON)."""
  fixed = json.loads(fixed)
  untraced = make(method, num_tasks, fixed)

  @jax.jit
  def update(traced, grads, state, params, extra):
    tx = make(method, num_tasks, fixed | traced) if traced else untraced
    return tx.update(grads, state, params, **extra)

  return update


def stacked(rows, dtype):
  rows = np.asarray(rows)
  return jnp.asarray(np.pad(rows, ((0, 0), (0, SIZE - rows.shape[1]))), dtype)


def compare(actual, expected, tolerance):
  expected = np.asarray(expected)
  error = np.linalg.norm(np.asarray(actual, np.float64) - expected)
  assert error <= tolerance * np.linalg.norm(expected)


def assert_agrees(case, dtype, tolerance):
  method, num_tasks = case["method"], len(case["steps"][0]["jacobian"])
  traced = {name: x for name, x in case["kwargs"].items() if name in TRACED}
  fixed = {name: x for name, x in case["kwargs"].items() if name not in TRACED}
  update = update_of(method, num_tasks, json.dumps(fixed))
  params = jnp.zeros(SIZE, dtype)
  state, after = make(method, num_tasks, case["kwargs"]).init(params), None
  for step in case["steps"]:
    extra = {}
    if step["losses"] is not None:
      extra["losses"] = jnp.asarray(step["losses"], dtype)
    if "independent" in step:
      extra["independent_grads"] = stacked(step["independent"], dtype)
    if "losses_after_step" in step:
      # The library takes those of the previous step; the first step ignores them.
      extra["losses_after_step"] = extra["losses"] if after is None else after
      after = jnp.asarray(step["losses_after_step"], dtype)
    grads = stacked(step["jacobian"], dtype)
    updates, state = update(traced, grads, state, params, extra)
    if method not in WEIGHTS_ONLY:
      compare(updates[: len(step["update"])], step["update"], tolerance)
    if step["weights"] is not None:
      compare(state.weights, step["weights"], tolerance)


# One of each method; the others vary arguments and repeat kinds of gradients.
LAST = {case["method"]: name for name, case in CASES.items()}


@pytest.mark.parametrize("name", thorough_but(LAST.values(), CASES))
def test_updates_and_weights_agree_with_other_libraries_in_float64(
  name, float64, standard_promotion
):
  case = CASES[name]
  tolerance = TOLERANCES.get(case["method"], 1e-6)
  assert_agrees(case, jnp.float64, max(tolerance, case.get("tolerance", 0)))


ONE_EACH = {case["method"]: case for case in CASES.values()}


@pytest.mark.thorough  # the same code in another dtype
@pytest.mark.parametrize("case", ONE_EACH.values(), ids=ONE_EACH)
def test_updates_and_weights_agree_with_other_libraries_in_float32(
  case, standard_promotion
):
  assert_agrees(case, jnp.float32, max(3e-4, case.get("tolerance", 0)))


def test_golden_values_name_their_sources_and_versions():
  versions = GOLDEN["versions"]
  assert {"torchjd", "torch"} <= versions.keys()
  assert len(bytes.fromhex(versions["LibMTL"])) == 20  # a commit
  assert {case["source"].split()[0] for case in CASES.values()} == {"torchjd", "LibMTL"}
