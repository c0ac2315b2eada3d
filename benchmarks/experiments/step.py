"""One compiled train step and one compiled evaluation, shared by seeds and rates."""

import functools
import threading
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from benchmarks.experiments.metric import add
from benchmarks.experiments.problem import Batch, Problem
from benchmarks.methods import (
  EQUAL_WEIGHTS,
  Setting,
  combination,
  named,
  weights_and_gnr,
)


class EpochSums(NamedTuple):
  """Sums over the steps of an epoch so far; K tasks trained.

  Attributes:
    steps: [], int32.
    losses: [K].
    weights: [K].
    log_gnr: [K], of the steps in which the GNR was positive and finite.
    measured: [K], int32. The number of those.
  """

  steps: jax.Array
  losses: jax.Array
  weights: jax.Array
  log_gnr: jax.Array
  measured: jax.Array

  @classmethod
  def zeros(cls, num_tasks: int) -> "EpochSums":
    """Of no step."""
    # One array each: a step gives up the memory of every one.
    losses, weights, log_gnr = (jnp.zeros(num_tasks) for _ in range(3))
    measured = jnp.zeros(num_tasks, jnp.int32)
    return cls(jnp.zeros((), jnp.int32), losses, weights, log_gnr, measured)

  def add(self, losses: jax.Array, weights: jax.Array, gnr: jax.Array) -> "EpochSums":
    """With one step more."""
    log_gnr = jnp.log(gnr)
    measured = jnp.isfinite(log_gnr)
    return EpochSums(
      self.steps + 1,
      self.losses + losses,
      self.weights + weights,
      self.log_gnr + jnp.where(measured, log_gnr, 0),
      self.measured + measured,
    )

  def means(self, tasks: tuple[str, ...]) -> dict[str, dict[str, float | None]]:
    """Mean losses and weights, geometric mean of the GNR; None where unmeasured."""
    steps = float(self.steps)
    with np.errstate(invalid="ignore"):
      gnr = np.exp(np.asarray(self.log_gnr) / np.asarray(self.measured))
    values = {
      "loss": np.asarray(self.losses) / steps,
      "weight": np.asarray(self.weights) / steps,
      "gnr": gnr,
    }
    return {
      name: {
        task: float(x) if np.isfinite(x) else None
        for task, x in zip(tasks, row, strict=True)
      }
      for name, row in values.items()
    }


class RunState(NamedTuple):
  """All that a run is: what a checkpoint holds.

  Attributes:
    step: [], int32. Steps done.
    params: The model's parameters.
    rest: What the forward pass changes: batch statistics.
    combination: The method's state.
    adam: Adam's, with the learning rate.
    epoch: Sums of the epoch that is under way.
  """

  step: jax.Array
  params: nnx.State
  rest: nnx.State
  combination: Any
  adam: optax.OptState
  epoch: EpochSums


class Trainer:
  """Compiled functions of one problem and one method.

  Args:
    problem: What is trained.
    method: Name of a method, see :func:`benchmarks.methods.named`.
    task: The only task to train, if not all.
    batch_size: Examples per step.
    microbatches: Parts in which a batch is taken.
    devices: Which of them share a batch; default: all.

  Raises:
    ValueError: if the devices cannot share a batch evenly, or there are fewer examples
      than a batch has.
  """

  def __init__(
    self,
    problem: Problem,
    method: str,
    task: str | None,
    batch_size: int,
    microbatches: int = 1,
    devices: Sequence[jax.Device] | None = None,
  ):
    if task is not None and task not in problem.tasks:
      raise ValueError(f"task must be one of {', '.join(problem.tasks)}, got {task!r}")
    if not 0 < batch_size <= problem.num_train:
      raise ValueError(
        f"a batch must have at most the {problem.num_train} examples that there are to "
        f"train on, got {batch_size}"
      )
    devices = jax.devices() if devices is None else devices
    if batch_size % (len(devices) * microbatches):
      raise ValueError(
        f"{len(devices)} devices must share each of {microbatches} parts of a batch "
        f"evenly, got a batch of {batch_size}"
      )
    self.problem = problem
    self.batch_size = batch_size
    self.tasks = problem.tasks if task is None else (task,)
    self.steps_per_epoch = problem.num_train // batch_size
    self.mesh = jax.make_mesh(
      (len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices
    )
    self._adam = optax.inject_hyperparams(optax.adam)(learning_rate=0.0)
    setting = Setting(len(self.tasks), problem.trunk_only, self.steps_per_epoch)
    self._combination = combination(
      named(method) if task is None else EQUAL_WEIGHTS,
      self.task_losses,
      setting,
      microbatches if microbatches > 1 else None,
    )
    self._compiling, self._compiled = threading.Lock(), False
    self._jitted_init = jax.jit(self._init)
    self._jitted_step = jax.jit(self._step, donate_argnums=0)
    self._jitted_sums = jax.jit(self._sums)

  @functools.cached_property
  def _graphdefs(self) -> tuple[Any, Any]:
    """Of the model in training and in evaluation."""
    model = nnx.eval_shape(lambda: self.problem.make_model(nnx.Rngs(0)))
    model.train()
    training = nnx.graphdef(model)
    model.eval()
    return training, nnx.graphdef(model)

  def init(self, seed: int, learning_rate: float) -> RunState:
    """The state before the first step, on all devices."""
    with self._compiling:
      state = self._jitted_init(jax.random.key(seed), jnp.float32(learning_rate))
      return self.replicate(state)

  def step(self, state: RunState, batch: Batch) -> tuple[RunState, tuple[Any, Any]]:
    """One step, the state's memory given up; also its losses and weights, [K]."""
    batch = self._on_devices(batch)
    if self._compiled:
      return self._jitted_step(state, batch)
    with self._compiling:  # of two runs side by side one compiles
      done = self._jitted_step(state, batch)
      self._compiled = True
      return done

  def evaluate(self, params, rest, batches: Iterable[Batch]) -> dict[str, float] | None:
    """The metrics over all examples of ``batches``; None if there are none."""
    total: dict[str, np.ndarray] = {}
    for batch in batches:
      total = add(total, self._jitted_sums(params, rest, self._on_devices(batch)))
    return self.problem.summarise(total) if total else None

  def task_losses(self, params, batch: Batch, rest) -> tuple[Any, Any, Any]:
    """Losses, indicators and batch statistics of a forward pass in training."""
    model = nnx.merge(self._graphdefs[0], params, rest, copy=True)
    outputs = model(batch[self.problem.inputs])
    losses = self.problem.losses(outputs, batch)
    kpis = self.problem.kpis(outputs, batch)
    return (
      {task: losses[task] for task in self.tasks},
      {task: kpis[task] for task in self.tasks},
      nnx.state(model, nnx.Not(nnx.Param)),
    )

  def start_epoch(self, state: RunState) -> RunState:
    """With the sums of an epoch put back to zero."""
    return state._replace(epoch=self.replicate(EpochSums.zeros(len(self.tasks))))

  def replicate(self, tree: Any) -> Any:
    """A tree of arrays, whole on every device."""
    return jax.device_put(tree, NamedSharding(self.mesh, PartitionSpec()))

  def _on_devices(self, batch: Batch) -> Batch:
    """A part on each device; a last batch that cannot be shared, whole on all."""
    rows = len(next(iter(batch.values())))
    axis = None if rows % self.mesh.size else "data"
    return jax.device_put(batch, NamedSharding(self.mesh, PartitionSpec(axis)))

  def _init(self, key: jax.Array, learning_rate: jax.Array) -> RunState:
    model = self.problem.make_model(nnx.Rngs(key))
    params = nnx.state(model, nnx.Param)
    rest = nnx.state(model, nnx.Not(nnx.Param))
    adam = self._adam.init(params)
    hyperparams = adam.hyperparams | {"learning_rate": learning_rate}
    return RunState(
      step=jnp.zeros((), jnp.int32),
      params=params,
      rest=rest,
      combination=self._combination.init(params),
      adam=adam._replace(hyperparams=hyperparams),
      epoch=EpochSums.zeros(len(self.tasks)),
    )

  def _step(self, state: RunState, batch: Batch):
    (losses, _, rest), grad, method_state = self._combination.value_and_grad(
      state.combination, state.params, batch, state.rest
    )
    updates, adam = self._adam.update(grad, state.adam, state.params)
    weights, gnr = weights_and_gnr(method_state)
    losses = jnp.stack(jax.tree.leaves(losses))
    state = RunState(
      step=state.step + 1,
      params=optax.apply_updates(state.params, updates),
      rest=rest,
      combination=method_state,
      adam=adam,
      epoch=state.epoch.add(losses, weights, gnr),
    )
    return state, (losses, weights)

  def _sums(self, params, rest, batch: Batch) -> dict[str, jax.Array]:
    model = nnx.merge(self._graphdefs[1], params, rest, copy=True)
    return self.problem.sums(model(batch[self.problem.inputs]), batch)
