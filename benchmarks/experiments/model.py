"""A problem's compiled functions that all methods share."""

import functools
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from benchmarks.combination import Labelled, task_gradients
from benchmarks.experiments.metric import add
from benchmarks.experiments.problem import Batch, Problem

# Measured with the scenes' network: half the time to compile, the same to run.
CPU_OPTIONS = {"xla_backend_optimization_level": 1}


class CompiledOnce:
  """A jitted function for threads: while one compiles, the others wait."""

  def __init__(self, function: Callable, **options: Any):
    if jax.default_backend() == "cpu":
      options["compiler_options"] = CPU_OPTIONS
    self._function = jax.jit(function, **options)
    self._compiling, self._compiled = threading.Lock(), False

  def __call__(self, *args: Any) -> Any:
    """Calls the function."""
    if self._compiled:
      return self._function(*args)
    with self._compiling:
      value = self._function(*args)
      self._compiled = True
      return value


class Model:
  """The model of a problem on a mesh of devices, which share every batch.

  Args:
    problem: What is trained.
    devices: The devices that share a batch; default: all.
  """

  def __init__(self, problem: Problem, devices: Sequence[jax.Device] | None = None):
    devices = jax.devices() if devices is None else devices
    self.problem = problem
    self.mesh = jax.make_mesh(
      (len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices
    )
    self.init = CompiledOnce(self._init)
    self._sums = CompiledOnce(self._sums_of_batch)

  @functools.cached_property
  def _graphdefs(self) -> tuple[Any, Any]:
    """The graph definitions of the model in training and in evaluation."""
    model = nnx.eval_shape(lambda: self.problem.make_model(nnx.Rngs(0)))
    model.train()
    training = nnx.graphdef(model)
    model.eval()
    return training, nnx.graphdef(model)

  def _init(self, key: jax.Array) -> tuple[nnx.State, nnx.State]:
    """Makes the parameters of a seed's key, and the batch statistics beside them."""
    model = self.problem.make_model(nnx.Rngs(key))
    return nnx.state(model, nnx.Param), nnx.state(model, nnx.Not(nnx.Param))

  def losses(self, params, batch: Batch, rest, tasks: Sequence[str]):
    """Computes losses, indicators and batch statistics in training."""
    model = nnx.merge(self._graphdefs[0], params, rest, copy=True)
    outputs = model(batch[self.problem.inputs])
    losses = self.problem.losses(outputs, batch)
    kpis = self.problem.kpis(outputs, batch)
    return (
      {task: losses[task] for task in tasks},
      {task: kpis[task] for task in tasks},
      nnx.state(model, nnx.Not(nnx.Param)),
    )

  @functools.cache  # noqa: B019 - a model lives as long as its experiment
  def gradients(
    self,
    tasks: tuple[str, ...],
    microbatches: int | None = None,
    flat_radius: float | None = None,
  ) -> Callable[..., tuple[Any, dict[str, Any]]]:
    """Compiles :func:`benchmarks.combination.task_gradients` for the losses of tasks.

    Returns a function of parameters, batch and batch statistics, made once for all
    methods, because most of what there is to compile is in it.
    """
    losses = functools.partial(self.losses, tasks=tasks)
    labelled = self.labelled(tasks)
    return CompiledOnce(task_gradients(losses, microbatches, flat_radius, labelled))

  def labelled(self, tasks: Sequence[str]) -> Labelled | None:
    """Returns the problem's function of a batch, for these tasks only."""
    of_problem = self.problem.labelled
    if of_problem is None:
      return None

    def of_tasks(batch: Batch) -> dict[str, jax.Array]:
      has_labels = of_problem(batch)
      return {task: has_labels[task] for task in tasks}

    return of_tasks

  def evaluate(self, params, rest, batches: Iterable[Batch]) -> dict[str, float] | None:
    """Computes the metrics over all examples of ``batches``; None if there are none."""
    total: dict[str, np.ndarray] = {}
    for batch in batches:
      total = add(total, self._sums(params, rest, self.on_devices(batch)))
    return self.problem.summarise(total) if total else None

  def _sums_of_batch(self, params, rest, batch: Batch) -> dict[str, jax.Array]:
    model = nnx.merge(self._graphdefs[1], params, rest, copy=True)
    return self.problem.sums(model(batch[self.problem.inputs]), batch)

  def on_devices(self, batch: Batch, stacked: bool = False) -> Batch:
    """Puts a part of a batch on each device, or all of it if it cannot be divided.

    Args:
      batch: Arrays with examples on the leading axis.
      stacked: Whether several batches are stacked before that axis.
    """
    rows = next(iter(batch.values())).shape[int(stacked)]
    axes = (None,) * stacked + (None if rows % self.mesh.size else "data",)
    return jax.device_put(batch, NamedSharding(self.mesh, PartitionSpec(*axes)))

  def replicate(self, tree: Any) -> Any:
    """Copies a tree of arrays to every device."""
    return jax.device_put(tree, NamedSharding(self.mesh, PartitionSpec()))
