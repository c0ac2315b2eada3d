"""The frame of all baselines: checks, what is measured, the update and the state."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from maxgnr_jax import _stacked
from maxgnr_jax._checks import (
  check_num_tasks,
  check_state,
  check_task_mask,
  check_task_values,
  check_weights,
  initial_tasks,
)
from maxgnr_jax._linalg._active import among, count_where
from maxgnr_jax._stacked import _trunk, check_floating, check_same_tasks, check_stacked
from maxgnr_jax._stacked._sharding import takes_axis_name


class BaselineState(NamedTuple):
  """State of every baseline; read with ``optax.tree.get(opt_state, name)``.

  Attributes:
    count: [], int32. Number of updates.
    weights: [K], float32, or float64 where the parameters are. The last step's
      weights, 0 of tasks that were absent from it; K is 0 until the first step with
      ``num_tasks=None``.
    memory: What the method remembers from step to step, by name; its docstring says
      what. Empty for most. What it remembers of a task that is absent stays as it is.
    task_count: [K], int32. In how many updates each task took part.
    notfinite_count: [K], int32. In how many it could not, because its gradient, or a
      number that the method reads, was not finite.
  """

  count: jax.Array  # type: ignore[assignment]
  weights: jax.Array
  memory: dict[str, Any]
  task_count: jax.Array
  notfinite_count: jax.Array


@dataclasses.dataclass(frozen=True)
class Step:
  """What a method may look at in one step.

  Attributes:
    count: [], int32. Number of updates before this one.
    weights: [K]. The weights of the step before; equal at first.
    grads: Stacked gradients, with :class:`optax.MaskedNode` where tasks do not share.
      Those of absent tasks may hold anything; see :attr:`present_grads`.
    present: [K], bool. The tasks that take part in this step. The choice must be that
      of the method if there were no more; the weights of the others become 0.
    task_count: [K], int32. In how many steps before this one each task took part.
    extra_args: Keyword arguments of ``update``.
    products: [K, K], what :meth:`gramian` returns, if it is known.
  """

  count: jax.Array
  weights: jax.Array
  grads: optax.Updates
  present: jax.Array
  task_count: jax.Array
  extra_args: Mapping[str, Any]
  products: jax.Array | None = None

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

  @property
  def num_present(self) -> jax.Array:
    """[], how many tasks take part, at least 1, in the dtype of K-sized arithmetic."""
    return jnp.maximum(jnp.sum(self.present.astype(self.dtype)), 1.0)

  @property
  def present_grads(self) -> optax.Updates:
    """``grads`` with zeros for the tasks that are absent."""
    return _stacked.only(self.present, self.grads)

  def gramian(self) -> jax.Array:
    """[K, K], ``⟨g_i, g_j⟩``; rows and columns of absent tasks are 0."""
    if self.products is None:
      return self.among(_stacked.gram(self.grads, self.dtype))
    return self.products

  def among(self, values: jax.Array) -> jax.Array:
    """[K] or [K, K] with zeros for the tasks that are absent."""
    return among(self.present, values)

  def remember(self, new: Any, old: Any) -> Any:
    """A pytree with the ``new`` numbers of the tasks that are present.

    Of each array with K entries, or with K rows; of all others ``new``.
    """

    def leaf(after, before):
      if jnp.shape(after)[:1] != (self.num_tasks,):
        return after
      present = self.present.reshape(-1, *(1,) * (jnp.ndim(after) - 1))
      return jnp.where(present, after, before)

    return jax.tree.map(leaf, new, old)

  def task_values(self, name: str) -> jax.Array:
    """[K], an extra argument of ``update``; raises if it is missing.

    Of an absent task it may be anything.
    """
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
  values: Sequence[str] = (),
  first: str | None = None,
  num_tasks: int | None = None,
  shared: Any | Callable[[optax.Params], Any] | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Makes a transformation of what a method does in one step.

  Args:
    choose: From a :class:`Step` and the memory to a :class:`Choice`.
    memory: From the parameters that are measured (or their shapes), K and the dtype of
      K-sized numbers to the memory before the first step.
    values: Names of the numbers per task that ``choose`` reads.
    first: How tasks are found whose gradients are not finite. "gramian": by the inner
      products, for methods that need them. "norms": by the norms, one more pass over
      the gradients, for methods that remember as many numbers. Default: if the update
      is not finite the step is made again without them, which costs a look at
      the update only.
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
      memory=memory(_trunk.select(shared, params), tasks, dtype),
      task_count=jnp.zeros((tasks,), jnp.int32),
      notfinite_count=jnp.zeros((tasks,), jnp.int32),
    )

  def update(
    grads: optax.Updates,
    state: BaselineState,
    params: optax.Params | None = None,
    *,
    task_mask: Any = None,
    **extra_args: Any,
  ) -> tuple[optax.Updates, BaselineState]:
    check_state(state, BaselineState)
    check_floating(grads, "Gradients")
    if not _trunk.has_numbers(grads):
      return _trunk.nothing_to_measure(grads), state
    like = _stacked.one_task(grads) if params is None else params
    tasks = check_stacked(
      grads, like, "the gradients" if params is None else "the parameters"
    )
    selected = _trunk.select(shared, _stacked.one_task(grads))
    measured = _trunk.restrict(grads, selected)
    dtype = state.weights.dtype
    if state.weights.size:
      check_same_tasks(tasks, state.weights.size)
    else:
      state = BaselineState(
        count=state.count,
        weights=jnp.full((tasks,), 1.0 / tasks, dtype),
        memory=memory(selected, tasks, dtype),
        task_count=jnp.zeros((tasks,), jnp.int32),
        notfinite_count=jnp.zeros((tasks,), jnp.int32),
      )

    def attempt(present: jax.Array, products: jax.Array | None = None):
      step = Step(
        count=state.count,
        weights=state.weights,
        grads=measured,
        present=present,
        task_count=state.task_count,
        extra_args=extra_args,
        products=products,
      )
      choice = choose(step, state.memory)
      weights = among(present, check_weights(choice.weights, tasks, dtype))
      elsewhere = choice.weights_elsewhere
      elsewhere = weights if elsewhere is None else among(present, elsewhere)
      updates = _stacked.combine(elsewhere, grads, like, present)
      anyone = jnp.any(present)
      if choice.combined is not None:
        combined = jax.tree.map(lambda x: jnp.where(anyone, x, 0), choice.combined)
        updates = _trunk.replace(updates, combined)

      def kept(new, old):
        # What is kept for each task stays as it is anyhow, and large arrays in place.
        of_tasks = jnp.shape(new)[:1] == (tasks,)
        return new if of_tasks else jnp.where(anyone, new, old)

      remembered = jax.tree.map(kept, choice.memory, state.memory)
      return updates, weights, remembered

    def again_if_poisoned(finite: jax.Array, result: Any):
      def again(carry):
        finite = carry[1] & _stacked.finite(grads, tasks, dtype)
        return jnp.ones((), bool), finite, attempt(mask & finite)

      # A loop of no or one turn: XLA would copy what comes out of a branch.
      done = _stacked.all_finite(result[:2])
      carry = (done, finite, result)
      return jax.lax.while_loop(lambda carry: ~carry[0], again, carry)[1:]

    mask = check_task_mask(task_mask, tasks)
    finite = jnp.ones((tasks,), bool)
    for name in values:
      given = check_task_values(name, extra_args.get(name), tasks, dtype)
      finite &= jnp.isfinite(given)
    products = _stacked.gram(measured, dtype) if first == "gramian" else None
    if products is not None:
      finite &= jnp.isfinite(jnp.diagonal(products))
      finite &= _stacked.finite(_trunk.rest(grads, measured), tasks, dtype)
      products = among(mask & finite, products)
    elif first == "norms":
      finite &= _stacked.finite(grads, tasks, dtype)
    result = attempt(mask & finite, products)
    if first is None:
      finite, result = again_if_poisoned(finite, result)
    updates, weights, remembered = result
    present = mask & finite
    return updates, BaselineState(
      count=optax.safe_increment(state.count),
      weights=weights,
      memory=remembered,
      task_count=count_where(present, state.task_count),
      notfinite_count=count_where(mask & ~finite, state.notfinite_count),
    )

  return optax.GradientTransformationExtraArgs(init, takes_axis_name(update))


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
