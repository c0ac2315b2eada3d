"""Takes train steps of one method, compiled once for all seeds and learning rates."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from benchmarks.combination import combination, weights_and_gnr
from benchmarks.experiments.model import CompiledOnce, Model
from benchmarks.experiments.problem import Batch
from benchmarks.methods import SUM, Setting, named

_WARMUP = 0.05  # share of a run's steps

# Each takes a learning rate, and its updates are proportional to it.
OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
  "adam": optax.adam,
  "sgd": functools.partial(optax.sgd, momentum=0.9),
}


def _of_unit_length(
  make_optimizer: Callable[..., optax.GradientTransformation],
) -> Callable[..., optax.GradientTransformation]:
  """Puts a division by the update's length before an optimiser."""

  def make(learning_rate: jax.typing.ArrayLike) -> optax.GradientTransformation:
    return optax.chain(optax.normalize_by_update_norm(), make_optimizer(learning_rate))

  return make


class EpochSums(NamedTuple):
  """Sums over the steps of the current epoch; K is the number of tasks trained.

  Attributes:
    steps: [], int32.
    losses: [K], over the steps with labels of the task.
    labelled: [K], int32. The number of those steps.
    weights: [K].
    log_gnr: [K], over the steps in which the GNR was positive and finite.
    measured: [K], int32. The number of those steps.
  """

  steps: jax.Array
  losses: jax.Array
  labelled: jax.Array
  weights: jax.Array
  log_gnr: jax.Array
  measured: jax.Array

  @classmethod
  def zeros(cls, num_tasks: int) -> "EpochSums":
    """Returns the sums over no step."""
    # One array each: a step gives up the memory of every one.
    losses, weights, log_gnr = (jnp.zeros(num_tasks) for _ in range(3))
    labelled, measured = (jnp.zeros(num_tasks, jnp.int32) for _ in range(2))
    steps = jnp.zeros((), jnp.int32)
    return cls(steps, losses, labelled, weights, log_gnr, measured)

  def add(
    self, losses: jax.Array, labelled: jax.Array, weights: jax.Array, gnr: jax.Array
  ) -> "EpochSums":
    """Returns the sums with one more step; ``labelled`` is [K], bool."""
    log_gnr = jnp.log(gnr)
    measured = jnp.isfinite(log_gnr)
    return EpochSums(
      self.steps + 1,
      self.losses + jnp.where(labelled, losses, 0),
      self.labelled + labelled,
      self.weights + weights,
      self.log_gnr + jnp.where(measured, log_gnr, 0),
      self.measured + measured,
    )

  def means(self, tasks: tuple[str, ...]) -> dict[str, dict[str, float | None]]:
    """Averages losses and weights, and GNRs geometrically; None where unmeasured."""
    steps = float(self.steps)
    with np.errstate(invalid="ignore"):
      loss = np.asarray(self.losses) / np.asarray(self.labelled, np.float32)
      gnr = np.exp(np.asarray(self.log_gnr) / np.asarray(self.measured))
    values = {
      "loss": loss,
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
  """The state of a run, which a checkpoint holds.

  Attributes:
    step: [], int32. Steps done.
    params: The model's parameters.
    rest: Batch statistics, which the forward pass changes.
    combination: The method's state.
    optimizer: The optimiser's state, with the learning rate.
    epoch: Sums over the current epoch.
  """

  step: jax.Array
  params: nnx.State
  rest: nnx.State
  combination: Any
  optimizer: optax.OptState
  epoch: EpochSums


def rate_factor(schedule: str, steps: int) -> optax.Schedule | None:
  """Makes a schedule of factors in [0, 1] of the learning rate.

  Args:
    schedule: ``"warmup"`` rises from 0 to 1 over 5 % of the steps and stays there,
      ``"cosine"`` then falls to 0, ``"constant"`` is 1.
    steps: Steps of a run.

  Returns:
    The schedule, or None for a factor that is always 1.
  """
  warmup = max(1, round(_WARMUP * steps))
  if schedule == "constant":
    return None
  if schedule == "warmup":
    return optax.linear_schedule(0.0, 1.0, warmup)
  # One step has no decay: the cosine must have at least one of its own.
  return optax.warmup_cosine_decay_schedule(0.0, 1.0, warmup, max(steps, warmup + 1))


class Trainer:
  """The steps of one method on one model.

  Args:
    model: What is trained.
    method: Name of a method, see :func:`benchmarks.methods.named`.
    tasks: The tasks to train; none named: all. One alone is trained by its own loss.
    batch_size: Examples per step.
    microbatches: Parts into which a batch is divided.
    steps_per_call: Steps that :meth:`steps` takes.
    schedule: Of the learning rate, see :func:`rate_factor`.
    epochs: Those of a run, over which the schedule extends.
    optimizer: A key of ``OPTIMIZERS``.

  Raises:
    ValueError: if the devices cannot share a batch evenly, there are fewer examples
      than a batch has, or an epoch is no whole number of calls.
  """

  def __init__(
    self,
    model: Model,
    method: str,
    tasks: Sequence[str],
    batch_size: int,
    microbatches: int = 1,
    steps_per_call: int = 1,
    schedule: str = "constant",
    epochs: int = 1,
    optimizer: str = "adam",
  ):
    problem, devices = model.problem, model.mesh.size
    for task in tasks:
      if task not in problem.tasks:
        raise ValueError(
          f"tasks must be among {', '.join(problem.tasks)}, got {task!r}"
        )
    if not 0 < batch_size <= problem.num_train:
      raise ValueError(
        f"a batch must have at most the {problem.num_train} examples that there are to "
        f"train on, got {batch_size}"
      )
    if batch_size % (devices * microbatches):
      raise ValueError(
        f"{devices} devices must share each of {microbatches} parts of a batch "
        f"evenly, got a batch of {batch_size}"
      )
    self.model = model
    self.problem = problem
    self.batch_size = batch_size
    self.tasks = tuple(t for t in problem.tasks if not tasks or t in tasks)
    self.steps_per_epoch = problem.num_train // batch_size
    self.steps_per_call = steps_per_call
    if self.steps_per_epoch % steps_per_call:
      raise ValueError(
        f"steps_per_call must divide the {self.steps_per_epoch} steps of an epoch, got "
        f"{steps_per_call}"
      )
    self._factor = rate_factor(schedule, self.steps_per_epoch * epochs)
    chosen = SUM if len(tasks) == 1 else named(method)
    make_optimizer = OPTIMIZERS[optimizer]
    if chosen.unit_length:
      make_optimizer = _of_unit_length(make_optimizer)
    self._optimizer = optax.inject_hyperparams(make_optimizer)(learning_rate=0.0)
    self._labelled = model.labelled(self.tasks)
    parts = microbatches if microbatches > 1 else None
    self._combination = combination(
      chosen,
      functools.partial(model.losses, tasks=self.tasks),
      Setting(
        len(self.tasks),
        problem.trunk_only,
        self.steps_per_epoch,
        problem.layers,
        problem.last_layer,
        problem.last_bias,
      ),
      parts,
      self._labelled,
    )
    self.gradients = model.gradients(self.tasks, parts, chosen.flat_radius)
    self._init_rest = CompiledOnce(self._state_of)
    self._scan = CompiledOnce(self._steps, donate_argnums=0)
    if self._combination.combine is None:
      self._whole_step = CompiledOnce(self.traced_step, donate_argnums=0)
    else:
      self._second_part = CompiledOnce(self._combine, donate_argnums=0)

  def init(
    self, seed: int, learning_rate: float, weights: Sequence[float] = ()
  ) -> RunState:
    """Makes the state before the first step, on all devices.

    Args:
      seed: Determines the initial parameters.
      learning_rate: The optimiser's.
      weights: Of a method whose weights are fixed: [K], or none for equal ones.

    Raises:
      ValueError: if there are weights, but not K of them.
    """
    params, rest = self.model.init(jax.random.key(seed))
    state = self._init_rest(params, rest, jnp.float32(learning_rate))
    if weights:
      if len(weights) != len(self.tasks):
        raise ValueError(
          f"weights must be one for each of {', '.join(self.tasks)}, got {weights}"
        )
      fixed = optax.tree.set(state.combination, weights=jnp.array(weights, jnp.float32))
      # One array each: a step gives up the memory of every one.
      state = state._replace(combination=jax.tree.map(jnp.copy, fixed))
    return self.model.replicate(state)

  def step(self, state: RunState, batch: Batch) -> tuple[RunState, tuple[Any, Any]]:
    """Takes a step, donating the state; returns also losses and weights, [K]."""
    batch = self.model.on_devices(batch)
    if self._combination.combine is None:
      return self._whole_step(state, batch)
    (_, _, rest), found = self.gradients(state.params, batch, state.rest)
    return self._second_part(state, found, rest)

  def steps(self, state: RunState, batches: Batch) -> tuple[RunState, tuple[Any, Any]]:
    """Takes several steps in one compiled call, otherwise like :meth:`step`.

    Args:
      state: The state before them, which is donated.
      batches: Stacked on a new leading axis.

    Returns:
      The state after these steps, and the last one's losses and weights, [K].
    """
    return self._scan(state, self.model.on_devices(batches, stacked=True))

  def start_epoch(self, state: RunState) -> RunState:
    """Resets the sums over the epoch."""
    return state._replace(epoch=self.model.replicate(EpochSums.zeros(len(self.tasks))))

  def _state_of(self, params, rest, learning_rate: jax.Array) -> RunState:
    optimizer = self._optimizer.init(params)
    hyperparams = optimizer.hyperparams | {"learning_rate": learning_rate}
    return RunState(
      step=jnp.zeros((), jnp.int32),
      params=params,
      rest=rest,
      combination=self._combination.init(params),
      optimizer=optimizer._replace(hyperparams=hyperparams),
      epoch=EpochSums.zeros(len(self.tasks)),
    )

  def traced_step(self, state: RunState, batch: Batch):
    """Takes a step like :meth:`step`, inside of a function that is compiled."""
    (losses, _, rest), grad, method_state = self._combination.value_and_grad(
      state.combination, state.params, batch, state.rest
    )
    mask = None if self._labelled is None else self._labelled(batch)
    return self._descend(state, losses, mask, rest, grad, method_state)

  def _steps(self, state: RunState, batches: Batch):
    state, shown = jax.lax.scan(self.traced_step, state, batches)
    return state, jax.tree.map(lambda x: x[-1], shown)

  def _combine(self, state: RunState, found: dict[str, Any], rest):
    assert self._combination.combine is not None
    grad, method_state = self._combination.combine(
      found, state.combination, state.params
    )
    losses, mask = found["losses"], found.get("task_mask")
    return self._descend(state, losses, mask, rest, grad, method_state)

  def _descend(self, state: RunState, losses, mask, rest, grad, method_state):
    updates, optimizer = self._optimizer.update(grad, state.optimizer, state.params)
    if self._factor is not None:
      updates = optax.tree.scale(self._factor(state.step), updates)
    weights, gnr = weights_and_gnr(method_state, len(self.tasks))
    losses = jnp.stack([losses[task] for task in self.tasks])
    labelled = jnp.ones(len(self.tasks), bool)
    if mask is not None:
      labelled = jnp.stack([mask[task] for task in self.tasks])
    state = RunState(
      step=state.step + 1,
      params=optax.apply_updates(state.params, updates),
      rest=rest,
      combination=method_state,
      optimizer=optimizer,
      epoch=state.epoch.add(losses, labelled, weights, gnr),
    )
    return state, (losses, weights)
