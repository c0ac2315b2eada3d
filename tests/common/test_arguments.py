"""Factories refuse invalid arguments and say what the argument must be."""

import jax
import jax.numpy as jnp
import optax
import pytest

from maxgnr_jax import aggregators

NAN = float("nan")
WRONG_PREFERENCES = ((), 1.0, (-1.0, 2.0), (0.0, 0.0), (1.0, NAN))
# Method, argument, refused values, and the requirement in the error's message.
OUT_OF_RANGE = [
  ("aligned_mtl", "preferences", WRONG_PREFERENCES, "a vector of one number per task"),
  ("aligned_mtl", "scale_mode", ("mean", None, 1), '"min" or "median" or "rmse"'),
  ("bmtl", "temperature", (0, -1.0, NAN, "1", None), "positive"),
  ("cagrad", "c", (-0.1, 1, NAN, "0.5", None), r"in \[0, 1\)"),
  ("config", "preferences", WRONG_PREFERENCES, "a vector of one number per task"),
  ("conicgrad", "c", (0, 1, NAN, None), r"in \(0, 1\)"),
  ("db_mtl", "beta", (-0.1, 1, NAN), r"in \[0, 1\)"),
  ("db_mtl", "beta_decay", (-0.1, NAN), "at least 0"),
  ("dibs_mtl", "step_size", (0, -1.0, NAN), "positive"),
  ("dibs_mtl", "num_steps", (0, 1.5, None), "an integer of at least 1"),
  ("dtp", "gamma", (-0.1, NAN), "at least 0"),
  ("dtp", "alpha", (0, 1.1, NAN), r"in \(0, 1\]"),
  ("dualproj", "preferences", WRONG_PREFERENCES, "a vector of one number per task"),
  ("dwa", "temperature", (0, -1.0, NAN), "positive"),
  ("dwa", "steps_per_epoch", (0, -1, NAN), "positive|at least 1"),
  ("excess_mtl", "step_size", (0, -1.0, NAN), "positive"),
  ("fairgrad", "alpha", (0, -1.0, NAN), "positive"),
  ("go4align", "num_groups", (0, 1.5, None), "an integer of at least 1"),
  ("go4align", "step_size", (-0.1, NAN), "at least 0"),
  ("graddrop", "leak", (-0.1, 1.1, NAN, jnp.array([0.5, 2.0])), r"in \[0, 1\]"),
  ("gradient_dropout", "rate", (-0.1, 1, NAN), r"in \[0, 1\)"),
  ("gradient_dropout", "noise", ("normal", None, 1), '"gaussian" or "bernoulli"'),
  ("gradnorm", "alpha", (-0.1, NAN), "at least 0"),
  ("gradvac", "beta", (-0.1, 1.1, NAN), r"in \[0, 1\]"),
  ("igb", "steps_per_epoch", (0, -1, 1.5), "an integer of at least 1"),
  ("igb", "base_epoch", (0, -1, 1.5), "an integer of at least 1"),
  ("krum", "num_byzantine", (-1, 0.5, "1", None), "an integer of at least 0"),
  ("krum", "num_selected", (0, 1.5), "an integer of at least 1"),
  ("moco", "beta", (0, 1.1, NAN), r"in \(0, 1\]"),
  ("moco", "gamma", (-0.1, NAN), "at least 0"),
  ("moco", "beta_decay", (-0.1, NAN), "at least 0"),
  ("moco", "gamma_decay", (-0.1, NAN), "at least 0"),
  ("moco", "rho", (-0.1, NAN), "at least 0"),
  ("modo", "gamma", (-0.1, NAN), "at least 0"),
  ("modo", "rho", (-0.1, NAN), "at least 0"),
  ("ngdiff", "signs", ((1, 0), (), 1, (1, -2)), "a vector of 1 and -1"),
  ("ntkmtl", "exponent", (-0.1, NAN), "at least 0"),
  ("sdmgrad", "direction", (-0.1, NAN), "at least 0"),
  ("sdmgrad", "learning_rate", (0, -1.0, NAN), "positive"),
  ("sdmgrad", "momentum", (-0.1, 1, NAN), r"in \[0, 1\)"),
  ("sdmgrad", "num_steps", (0, -1, NAN), "positive|at least 1"),
  ("slaw", "beta", (-0.1, 1, NAN), r"in \[0, 1\)"),
  ("stch", "mu", (0, -1.0, NAN), "positive"),
  ("trimmed_mean", "trim", (-1, 0.5), "an integer of at least 0"),
  ("upgrad", "preferences", WRONG_PREFERENCES, "a vector of one number per task"),
]
NEEDED = {name: {"steps_per_epoch": 1} for name in ("dwa", "igb")}
METHODS = sorted({name for name, *_ in OUT_OF_RANGE} - {"ngdiff"})


def make(name, **kwargs):
  return getattr(aggregators, name)(**(NEEDED.get(name, {}) | kwargs))


@pytest.mark.parametrize(
  ("name", "argument", "value", "requirement"),
  [
    (name, argument, value, requirement)
    for name, argument, values, requirement in OUT_OF_RANGE
    for value in values
  ],
)
def test_an_argument_out_of_range_raises_an_error_that_names_the_range(
  name, argument, value, requirement
):
  with pytest.raises(ValueError, match=rf"`{argument}` must be .*({requirement}).*got"):
    make(name, **{argument: value})


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("num_tasks", [0, -1, 2.0, "3"])
def test_num_tasks_must_be_an_integer_of_at_least_one(name, num_tasks):
  with pytest.raises(ValueError, match="`num_tasks` must be an integer of at least 1"):
    make(name, num_tasks=num_tasks)


@pytest.mark.parametrize("name", ["famo", "gradnorm", "imtl_l", "uncertainty"])
@pytest.mark.parametrize("optimizer", [None, 0.1, optax.sgd])
def test_optimizer_must_be_a_gradient_transformation(name, optimizer):
  with pytest.raises(TypeError, match=r"`optimizer` must be an `optax\.GradientTrans"):
    make(name, optimizer=optimizer)


@pytest.mark.parametrize(
  ("name", "argument"),
  [("krum", "num_byzantine"), ("trimmed_mean", "trim")],
)
def test_arguments_that_determine_shapes_must_not_be_traced(name, argument):
  tx = optax.inject_hyperparams(getattr(aggregators, name))(**{argument: 1})
  message = rf'`{argument}` must be known.*static_args=\("{argument}",\)'
  with pytest.raises(TypeError, match=message):
    jax.eval_shape(tx.init, jnp.ones(3))


@pytest.mark.parametrize(
  ("name", "argument"), [("dwa", "steps_per_epoch"), ("sdmgrad", "num_steps")]
)
def test_a_number_of_steps_must_be_an_integer(name, argument):
  with pytest.raises(ValueError, match=f"`{argument}` must be"):
    make(name, **{argument: 1.5})
