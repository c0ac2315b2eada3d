"""One training run, compiled whole: from a seed and a learning rate to its history."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import optax
from flax import nnx

from benchmarks.experiments.mlp import trunk_only
from benchmarks.experiments.problems.digits.data import Batch, Digits, sample
from benchmarks.experiments.problems.digits.methods import STEPS_PER_EPOCH
from benchmarks.experiments.problems.digits.model import (
  kpis,
  losses,
  make_network,
  metrics,
)
from benchmarks.methods import Method, Setting, combination, weights_and_gnr

BATCH_SIZE = 64
EVALUATE_EVERY = 100  # steps


class History(NamedTuple):
  """What a run leaves behind; E evaluations, T steps, K tasks trained.

  JAX arrays from a run, NumPy arrays once it is collected.

  Attributes:
    validation: [E, 4]. Metrics on the validation canvases.
    test: [E, 4]. Metrics on the test canvases.
    weights: [T, K]. Task weights.
    gnr: [T, K]. Each task's gradient-to-noise ratio under these weights; NaN if the
      method does not measure it.
  """

  validation: Any
  test: Any
  weights: Any
  gnr: Any


def make_run(
  method: Method,
  tasks: Sequence[str],
  num_steps: int,
  data: tuple[Digits, Batch, Batch],
) -> Callable[[jax.Array, jax.Array], History]:
  """A jitted function from a PRNG key and a learning rate to a run's history."""
  train_digits, validation, test = data
  graphdef = nnx.graphdef(nnx.eval_shape(lambda: make_network(nnx.Rngs(0))))

  @jax.jit
  def run(key: jax.Array, learning_rate: jax.Array) -> History:
    adam = optax.adam(learning_rate)

    def task_losses(params, batch):
      outputs = nnx.merge(graphdef, params)(batch.canvas)
      every = (losses(outputs, batch), kpis(outputs, batch))
      return *({task: values[task] for task in tasks} for values in every), ()

    setting = Setting(len(tasks), trunk_only, STEPS_PER_EPOCH)
    combined = combination(method, task_losses, setting)

    def train_step(carry, key):
      params, state, adam_state = carry
      batch = sample(key, train_digits, BATCH_SIZE)
      _, grad, state = combined.value_and_grad(state, params, batch)
      updates, adam_state = adam.update(grad, adam_state, params)
      params = optax.apply_updates(params, updates)
      weights, gnr = weights_and_gnr(state)
      return (params, state, adam_state), (weights, gnr)

    def train_and_evaluate(carry, keys):
      carry, (weights, gnr) = jax.lax.scan(train_step, carry, keys)
      network = nnx.merge(graphdef, carry[0])
      on_validation, on_test = (
        metrics(network(b.canvas), b) for b in (validation, test)
      )
      return carry, History(on_validation, on_test, weights, gnr)

    init_key, data_key = jax.random.split(key)
    params = nnx.state(make_network(nnx.Rngs(init_key)), nnx.Param)
    keys = jax.random.split(data_key, (num_steps // EVALUATE_EVERY, EVALUATE_EVERY))
    state = combined.init(params)
    carry = (params, state, adam.init(params))
    _, history = jax.lax.scan(train_and_evaluate, carry, keys)
    return History(
      validation=history.validation,
      test=history.test,
      weights=history.weights.reshape(-1, len(tasks)),
      gnr=history.gnr.reshape(-1, len(tasks)),
    )

  return run
