"""The frame of all baselines: checks, what is measured, the update and the state."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from maxgnr_jax import _shared, _stacked
from maxgnr_jax._checks import (
  check_floating,
  check_num_tasks,
  check_same_tasks,
  check_stacked,
  check_state,
  check_task_values,
  check_weights,
  initial_tasks,
)


class BaselineState(NamedTuple):
  """State of every baseline; read with ``optax.tree.get(opt_state, name)``.

  Attributes:
    count: [], int32. Number of updates.
    weights: [K], float32, or float64 where the parameters are. The last step's
      weights; K is 0 until the first step with ``num_tasks=None``.
    memory: What the method remembers from step to step, by name; its docstring says
      what. Empty for most.
  """

  count: jax.Array  # type: ignore[assignment]
  weights: jax.Array
  memory: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Step:
  """What a method may look at in one step.

  Attributes:
    count: [], int32. Number of updates before this one.
    weights: [K]. The weights of the step before; equal at first.
    grads: Stacked gradients, with :class:`optax.MaskedNode` where tasks do not share.
    extra_args: Keyword arguments of ``update``.
  """

  count: jax.Array
  weights: jax.Array
  grads: optax.Updates
  extra_args: Mapping[str, Any]

  @property
  def num_tasks(self) -> int:
    """K."""
    return self.weights.size

  @property
  def dtype(self) -> Any:
    """Of K-sized arithmetic."""
    return self.weights.dtype

  @property
  def one_task(self) -> optax.Updates:
    """Shapes and dtypes of one task's gradients."""
    return _stacked.one_task(self.grads)

  def gramian(self) -> jax.Array:
    """[K, K], ``⟨g_i, g_j⟩``."""
    return _stacked.gram(self.grads, self.dtype)

  def task_values(self, name: str) -> jax.Array:
    """[K], an extra argument of ``update``; raises if it is missing."""
    values = self.extra_args.get(name)
    return check_task_values(name, values, self.num_tasks, self.dtype)


class Choice(NamedTuple):
  """What a method decides in one step.

  Attributes:
    weights: [K].
    memory: For the next step, of the same structure as in this one.
    combined: Pytree like one task's ``Step.grads``: the update, if it is not the
      weighted sum. The weights apply to the other parameters still.
    weights_elsewhere: [K], for those other parameters, if they are not ``weights``.
  """

  weights: jax.Array
  memory: dict[str, Any] = {}  # noqa: RUF012 - never written to
  combined: optax.Updates | None = None
  weights_elsewhere: jax.Array | None = None


def no_memory(params: Any, num_tasks: int, dtype: Any) -> dict[str, Any]:
  """Of a method whose steps do not depend on each other."""
  del params, num_tasks, dtype
  return {}


def method(
  choose: Callable[[Step, dict[str, Any]], Choice],
  memory: Callable[[Any, int, Any], dict[str, Any]] = no_memory,
  *,
  num_tasks: int | None = None,
  shared: Any | Callable[[optax.Params], Any] | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Makes a transformation of what a method does in one step.

  Args:
    choose: From a :class:`Step` and the memory to a :class:`Choice`.
    memory: From the parameters that are measured (or their shapes), K and the dtype of
      K-sized numbers to the memory before the first step.
    num_tasks: As in :func:`gramian_method`.
    shared: Likewise.

  Returns:
    An :class:`optax.GradientTransformationExtraArgs` with :class:`BaselineState`.
  """
  check_num_tasks(num_tasks)

  def init(params: optax.Params) -> BaselineState:
    check_floating(params, "Parameters")
    tasks = initial_tasks(num_tasks)
    dtype = _stacked.compute_dtype(params)
    return BaselineState(
      count=jnp.zeros((), jnp.int32),
      weights=jnp.full((tasks,), 1.0 / max(tasks, 1), dtype),
      memory=memory(_shared.select(shared, params), tasks, dtype),
    )

  def update(
    grads: optax.Updates,
    state: BaselineState,
    params: optax.Params | None = None,
    **extra_args: Any,
  ) -> tuple[optax.Updates, BaselineState]:
    check_state(state, BaselineState)
    check_floating(grads, "Gradients")
    if not _shared.has_numbers(grads):
      return _shared.nothing_to_measure(grads), state
    like = _stacked.one_task(grads) if params is None else params
    tasks = check_stacked(
      grads, like, "the gradients" if params is None else "the parameters"
    )
    selected = _shared.select(shared, _stacked.one_task(grads))
    weights, remembered, dtype = state.weights, state.memory, state.weights.dtype
    if weights.size:
      check_same_tasks(tasks, weights.size)
    else:
      weights = jnp.full((tasks,), 1.0 / tasks, dtype)
      remembered = memory(selected, tasks, dtype)

    measured = _shared.restrict(grads, selected)
    choice = choose(Step(state.count, weights, measured, extra_args), remembered)
    weights = check_weights(choice.weights, tasks, dtype)
    elsewhere = choice.weights_elsewhere
    updates = _stacked.combine(weights if elsewhere is None else elsewhere, grads, like)
    if choice.combined is not None:
      updates = _shared.replace(updates, choice.combined)
    count = optax.safe_increment(state.count)
    return updates, BaselineState(count, weights, choice.memory)

  return optax.GradientTransformationExtraArgs(init, update)


def key_memory(seed: int | jax.Array) -> Callable[[Any, int, Any], dict[str, Any]]:
  """The memory of a random method: the PRNG ``key`` of the next step.

  Args:
    seed: An integer, or a key.
  """

  def memory(params, num_tasks, dtype):
    del params, num_tasks, dtype
    given = jnp.asarray(seed)
    is_key = jnp.issubdtype(given.dtype, jax.dtypes.prng_key)
    return {"key": given if is_key else jax.random.key(given)}

  return memory
