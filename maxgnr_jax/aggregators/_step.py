"""One step of the frame, from gradients or what was measured of them to the update."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec as P

from maxgnr_jax import _stacked
from maxgnr_jax._checks import as_weights
from maxgnr_jax._linalg import count_where
from maxgnr_jax._stacked._groups import labels_of
from maxgnr_jax.aggregators._attempts import without_spoilers
from maxgnr_jax.aggregators._combination import combine_gradients
from maxgnr_jax.aggregators._length import as_long_as_the_mean
from maxgnr_jax.aggregators._measured import Measured
from maxgnr_jax.aggregators._method import AggregatorState, Choice, Method, Step
from maxgnr_jax.aggregators._smoothing import smooth


@dataclasses.dataclass(frozen=True)
class Frame:
  """A method, and what the frame does around it.

  Attributes:
    method: What to remember, to measure and to choose.
    size: The size of sketches; None without.
    smoothing: Decay rate of the average of the weights' logarithms; None without.
    unshared: "weighted" or "own".
    rescale: None or "mean".
  """

  method: Method
  size: int | None = None
  smoothing: jax.typing.ArrayLike | None = None
  unshared: str = "weighted"
  rescale: str | None = None

  def dtype(self, state: AggregatorState, like: Any) -> Any:
    """Returns the dtype of K-sized arithmetic."""
    return _stacked.compute_dtype(like if state.weights is None else state.weights)


def take_step(
  frame: Frame,
  specs: tuple[P, ...] | None,
  grads: optax.Updates | Measured,
  state: AggregatorState,
  params: optax.Params | None,
  mask: jax.Array,
  values: dict[str, jax.Array],
  further: dict[str, optax.Updates],
) -> tuple[optax.Updates, AggregatorState]:
  """Measures, finds the active tasks, chooses, combines and records."""
  method = frame.method
  measured = grads if isinstance(grads, Measured) else None
  like = _stacked.one_task(grads) if params is None else params
  trunk = measured.grads if measured else _stacked.restrict(grads, state.trunk)
  tasks, dtype = mask.size, frame.dtype(state, like)
  labels = None if state.groups is None else labels_of(state.groups)

  # Measure.
  step = Step(
    count=state.count,
    task_count=state.task_count,
    weights=state.weights,
    grads=trunk,
    values=values,
    mask=mask,
    dtype=dtype,
    labels=labels,
    further={name: _stacked.restrict(x, state.trunk) for name, x in further.items()},
    sketch_size=frame.size,
    specs=specs,
    measured=measured,
  )
  measurements, measured_finite = method.measure(step, state.memory)

  # Find the active tasks.
  unmeasured = measured_finite is None and not measured
  finite = measured.finite if measured else jnp.ones((tasks,), bool)
  for name in method.values:
    finite &= jnp.isfinite(jnp.square(values[name]))
  if measured_finite is not None:
    finite &= measured_finite
    if not measured:
      finite &= _stacked.finite(_stacked.heads(grads, trunk), tasks, dtype)
  zero = jnp.zeros((tasks,), bool)
  if method.skips_zero:
    zero = step.zero(grads if unmeasured else trunk)

  # Choose and combine.
  def attempt(finite: jax.Array) -> tuple[optax.Updates, Any, Any]:
    active = mask & finite & ~zero
    choice = method.choose(measurements, active, state.memory)
    _check_choice(choice, method)
    weights, smoothed = None, state.smoothed
    if method.weighted:
      weights, smoothed = _weigh(frame, step, choice, active, state)
    updates = None
    if not measured:
      heads = mask & finite if frame.unshared == "own" else None
      updates = combine_gradients(
        choice, weights, grads, trunk, like, active, labels, heads
      )
    return updates, weights, (choice.memory, smoothed)

  result = attempt(finite)
  if unmeasured:
    finite, result = without_spoilers(attempt, result, finite, grads, dtype)

  # Record.
  updates, weights, (memory, smoothed) = result
  return updates, state._replace(
    count=optax.safe_increment(state.count),
    weights=weights,
    memory=memory,
    task_count=count_where(mask & finite & ~zero, state.task_count),
    notfinite_count=count_where(mask & ~finite, state.notfinite_count),
    zero_count=count_where(mask & finite & zero, state.zero_count),
    smoothed=smoothed,
  )


def _weigh(
  frame: Frame, step: Step, choice: Choice, active: jax.Array, state: AggregatorState
) -> tuple[jax.Array, jax.Array | None]:
  """Returns the weights of the update, and the average of their logarithms."""
  assert state.weights is not None
  weights = as_weights(choice.weights, state.weights.shape, step.dtype)
  weights = jnp.where(active if step.labels is None else active[None], weights, 0)
  smoothed = state.smoothed
  if frame.smoothing is not None:
    decay = jnp.asarray(frame.smoothing, step.dtype)

    def smooth_group(weights, average):
      return smooth(weights, average, decay, state.task_count, active)

    weights, smoothed = _in_each_group(step, smooth_group, weights, smoothed)
  if frame.rescale is not None:

    def rescale_group(weights, gramian):
      return as_long_as_the_mean(weights, gramian, active)

    weights = _in_each_group(step, rescale_group, weights, step.gramian())
  return weights, smoothed


def _in_each_group(step: Step, fun: Any, *arrays: Any) -> Any:
  return (fun if step.labels is None else jax.vmap(fun))(*arrays)


def _check_choice(choice: Choice, method: Method) -> None:
  """Raises unless a choice has what its method promised."""
  combined = choice.combined is not None and choice.head_weights is not None
  if not (choice.weights is not None if method.weighted else combined):
    needed = "`weights`" if method.weighted else "`combined` and `head_weights`"
    given = [name for name, value in choice._asdict().items() if value is not None]
    raise TypeError(
      f"The `Choice` of a method with weighted={method.weighted} must have {needed}, "
      f"got one with {', '.join(given)}. See `aggregators.Method`."
    )
