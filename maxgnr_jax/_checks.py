"""Errors raised at trace time: what, what it must be, what came, what to do."""

import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

HOW_TO_STACK = (
  "Stack the gradients of the K task losses on a leading axis with "
  "`maxgnr_jax.value_and_task_grads(losses)(params)`, "
  "`jax.vmap(jax.grad(loss), in_axes=(None, 0))(params, tasks)` or "
  "`jax.jacrev(losses)(params)` of a vector of losses; or, of K gradients, "
  "`jax.tree.map(lambda *g: jnp.stack(g), *grads)`."
)


def check_at_least_one(name: str, value: Any) -> None:
  """Raises unless ``value`` is an integer of at least 1, known at trace time."""
  check_integer(name, value, 1)


def check_integer(name: str, value: Any, minimum: int) -> None:
  """Raises unless ``value`` is an integer >= ``minimum``, known at trace time."""
  if isinstance(value, jax.core.Tracer):
    raise TypeError(
      f"`{name}` must be known when the step is traced, got a traced value. Under "
      f'`optax.inject_hyperparams` pass `static_args=("{name}",)`.'
    )
  try:
    valid = operator.index(value) >= minimum
  except TypeError:
    valid = False
  if not valid:
    raise ValueError(
      f"`{name}` must be an integer of at least {minimum}, got {value!r}."
    )


def check_whole(name: str, value: Any, minimum: int) -> None:
  """Raises unless ``value`` is an integer >= ``minimum``; a traced one passes."""
  if not isinstance(value, jax.core.Tracer):
    check_integer(name, value, minimum)


def check_num_tasks(num_tasks: Any) -> None:
  """Raises for a wrong number of tasks, if it is given and known already."""
  # Traced under `optax.inject_hyperparams`, where only `init` needs to know it.
  if num_tasks is not None and not isinstance(num_tasks, jax.core.Tracer):
    check_at_least_one("num_tasks", num_tasks)


def initial_tasks(num_tasks: Any) -> int:
  """K of a new state, 0 if it is not given; raises unless it is known by now."""
  if num_tasks is None:
    return 0
  check_at_least_one("num_tasks", num_tasks)
  return int(num_tasks)


def check_positive(name: str, value: Any) -> None:
  """Raises unless ``value`` is positive; a traced value passes unseen."""
  check_range(name, value, "positive", lambda x: x > 0)


def check_not_negative(name: str, value: Any) -> None:
  """Raises unless ``value >= 0``; a traced value passes unseen."""
  check_range(name, value, "at least 0", lambda x: x >= 0)


def check_fraction(name: str, value: Any) -> None:
  """Raises unless ``0 <= value < 1``; a traced value passes unseen."""
  check_range(name, value, "in [0, 1)", lambda x: 0 <= x < 1)


def check_range(
  name: str, value: Any, what: str, valid: Callable[[float], bool]
) -> None:
  """Raises unless ``value`` is a number that is ``valid``; a traced one passes."""
  if isinstance(value, jax.core.Tracer):
    return
  try:
    good = not isinstance(value, str) and valid(float(value))
  except TypeError:
    good = False
  if not good:
    raise ValueError(f"`{name}` must be {what}, got {value!r}.")


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
  """Raises unless ``value`` is one of ``choices``."""
  if value not in choices:
    listed = " or ".join(f'"{choice}"' for choice in choices)
    raise ValueError(f"`{name}` must be {listed}, got {value!r}.")


def check_gamma(gamma: Any) -> None:
  """Raises unless ``0 <= gamma < 1``; a traced value passes unseen."""
  if callable(gamma):
    raise TypeError(
      f"`gamma` must be a number in [0, 1), got {gamma!r}. For a schedule use "
      "`optax.inject_hyperparams(maxgnr)(gamma=schedule)`."
    )
  if isinstance(gamma, jax.core.Tracer):
    return
  try:
    valid = not isinstance(gamma, str) and 0 <= float(gamma) < 1
  except TypeError:
    valid = False
  if not valid:
    raise ValueError(
      f"`gamma`, the decay rate of the momentum, must lie in [0, 1), got {gamma!r}."
    )


def check_momentum_dtype(dtype: Any) -> None:
  """Raises unless ``dtype`` is None or real floating point."""
  if dtype is not None and not jnp.issubdtype(dtype, jnp.floating):
    raise TypeError(
      f"`momentum_dtype` must be a real floating-point dtype or None, got {dtype!r}."
    )


def check_solver(solver: Any) -> None:
  """Raises unless ``solver`` has a method to solve Eq. 17 with."""
  if not callable(getattr(solver, "solve", None)):
    raise TypeError(
      f"`solver` must be a `Solver`, such as `projected_gradient()`, got {solver!r}. "
      "Call a function that makes one; wrap a rule of your own in `Solver(rule)`."
    )


def check_optimizer(optimizer: Any) -> None:
  """Raises unless ``optimizer`` is a gradient transformation."""
  _check_transformation("optimizer", optimizer, "optax.adam(0.025)")


def check_aggregator(aggregator: Any) -> None:
  """Raises unless ``aggregator`` is a gradient transformation."""
  _check_transformation("aggregator", aggregator, "maxgnr()")


def _check_transformation(name: str, value: Any, example: str) -> None:
  if not callable(getattr(value, "update", None)):
    raise TypeError(
      f"`{name}` must be an `optax.GradientTransformation`, such as `{example}`, got "
      f"{value!r}."
    )


def check_weights(weights: Any, num_tasks: int, dtype: Any) -> jax.Array:
  """``weights`` as an array of ``dtype``; raises unless it holds one per task."""
  weights = jnp.asarray(weights, dtype)
  if weights.shape != (num_tasks,):
    raise ValueError(
      "The rule for the weights must return one weight per task, shape "
      f"({num_tasks},), got shape {weights.shape}."
    )
  return weights


def check_task_values(name: str, values: Any, num_tasks: int, dtype: Any) -> jax.Array:
  """An extra argument of ``update`` as [K]; raises unless it holds one per task.

  Args:
    name: Of the argument, for the message.
    values: A vector [K] or a pytree of K scalars; None if it was not passed.
    num_tasks: K.
    dtype: Of the result.
  """
  if values is None:
    raise TypeError(
      f"This method needs `{name}`, one number per task: pass "
      f"`tx.update(grads, opt_state, params, {name}={name})` or, with flax.nnx, "
      f"`optimizer.update(model, grads, {name}={name})`. The `TrainState` of "
      "flax.linen passes no extra arguments: call its `tx.update` yourself, as in the "
      "README."
    )
  # Numbers for the optimiser, not something to differentiate through.
  return jax.lax.stop_gradient(_one_per_task(name, values, num_tasks, dtype))


def check_task_mask(mask: Any, num_tasks: int) -> jax.Array:
  """``task_mask`` as [K], bool; raises unless it holds one bool per task.

  Args:
    mask: A vector [K] or a pytree of K bools; None for all.
    num_tasks: K.
  """
  if mask is None:
    return jnp.ones((num_tasks,), bool)
  dtypes = {jnp.result_type(leaf) for leaf in jax.tree.leaves(mask)}
  if dtypes - {jnp.dtype(bool)}:
    raise TypeError(
      "`task_mask` must hold bools, True for a task that takes part in this step, got "
      f"{', '.join(sorted(map(str, dtypes)))}. Compare counts first: "
      "`task_mask=num_labels > 0`."
    )
  return _one_per_task("task_mask", mask, num_tasks, bool)


def _one_per_task(name: str, values: Any, num_tasks: int, dtype: Any) -> jax.Array:
  leaves = jax.tree.leaves(values)
  shapes = [jnp.shape(leaf) for leaf in leaves]
  if shapes not in ([(num_tasks,)], [()] * num_tasks):
    raise ValueError(
      f"`{name}` must hold one value per task, as a vector [{num_tasks}] or a pytree "
      f"of {num_tasks} scalars, in the order of the stacked gradients, got "
      f"{jax.tree.structure(values)} with shapes {shapes}. Give it the structure of "
      "the losses that `value_and_task_grads` returned beside the gradients."
    )
  if shapes == [(num_tasks,)]:
    return jnp.asarray(leaves[0], dtype)
  return jnp.stack([jnp.asarray(leaf, dtype) for leaf in leaves])


def check_state(state: Any, kind: type) -> None:
  """Raises unless ``state`` is of the transformation's own kind."""
  if not isinstance(state, kind):
    raise TypeError(
      f"The state must be the {kind.__name__} that this transformation's `init` made, "
      f"got {type(state).__name__}. The state of an `optax.chain` belongs to the chain."
    )


def check_refresh(refresh: Any) -> None:
  """Raises unless ``refresh`` is None or a bool that is known at trace time."""
  if refresh is not None and not isinstance(refresh, bool):
    raise TypeError(
      "`refresh` must be None, or a bool that is known when the step is traced, got "
      f'{refresh!r}. Under `jax.jit` pass `static_argnames="refresh"`; None decides by '
      "the state's count."
    )


def check_weights_in_state(state: Any) -> jax.Array:
  """The ``weights`` [K] in an aggregator's state; raises if it holds none."""
  inside = state
  while hasattr(inside, "inner_state"):  # as of `optax.inject_hyperparams`
    inside = inside.inner_state
  weights = getattr(inside, "weights", None)
  if weights is None or jnp.ndim(weights) != 1:
    raise TypeError(
      "`aggregator` must be a single transformation that keeps the weights [K] of its "
      "weighted sum as `weights` in its state, such as `maxgnr()`, got a state of "
      f"{type(inside).__name__}. Of an `optax.chain` pass the aggregator alone, and "
      "the rest to what takes the combined gradient; `groups` have several weights."
    )
  return weights


def check_batch(
  microbatches: int, positions: Sequence[int], inputs: Sequence[int], args: Any
) -> None:
  """Raises unless the arguments at these positions divide into so many microbatches.

  Args:
    microbatches: Their number, at least 1.
    positions: Of the arguments that hold the batch.
    inputs: Of those that are differentiated; in range.
    args: All positional arguments.
  """
  named = all(-len(args) <= p < len(args) for p in positions)
  differentiated = {p % len(args) for p in inputs}
  if not positions or not named or differentiated & {p % len(args) for p in positions}:
    raise TypeError(
      "`batch_argnums` must name the positional arguments that hold the batch, others "
      f"than those to differentiate, got {tuple(positions)} beside {tuple(inputs)}, of "
      f"{len(args)} positional arguments. Pass the batch by position."
    )
  batch = {f"argument {position}": args[position] for position in positions}
  leaves = jax.tree_util.tree_leaves_with_path(batch)
  if not leaves:
    raise ValueError(
      f"`batch_argnums` must name arguments that hold arrays, got {tuple(positions)} "
      "and no array there."
    )
  for path, leaf in leaves:
    shape = jnp.shape(leaf)
    if not shape or shape[0] % microbatches:
      raise ValueError(
        f"The batch must divide into {microbatches} microbatches of as many rows each, "
        f"got the leaf {jax.tree_util.keystr(path, simple=True, separator='/')} of "
        f"shape {shape}. Choose `microbatches` that divides the leading axis; pass "
        "what has no rows in an argument that `batch_argnums` does not name."
      )


def check_floating(tree: Any, what: str) -> None:
  """Raises unless every array of ``tree`` is real floating point."""
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    dtype = jnp.result_type(leaf)
    if not jnp.issubdtype(dtype, jnp.floating):
      raise TypeError(
        f"{what} must be real floating-point arrays, got {_where(path)} of dtype "
        f"{dtype}. Keep other arrays out of the optimiser, with `optax.masked`, "
        "`optax.partition` or the `wrt` filter of `nnx.Optimizer`."
      )


def check_stacked(grads: Any, shapes: Any, what: str) -> int:
  """Raises unless every gradient is ``[K, *shape]`` with one K.

  Args:
    grads: Pytree of gradients, with at least one array.
    shapes: Pytree like ``grads``, whose leaves have the shapes of a single task's
      gradient.
    what: What ``shapes`` were taken from, for the message.

  Returns:
    K, the number of tasks.
  """
  expected = jax.tree.leaves(shapes)
  treedef: Any = jax.tree.structure(shapes)
  if jax.tree.structure(grads) != treedef:
    raise ValueError(
      f"The gradients must be a pytree like that of {what}, {treedef}, got "
      f"{jax.tree.structure(grads)}. Pass the state that this transformation's `init` "
      "made for these parameters, and gradients with respect to the same parameters. "
      f"{HOW_TO_STACK}"
    )
  leaves = jax.tree_util.tree_leaves_with_path(grads)
  pairs = [
    (path, jnp.shape(g), getattr(s, "shape", ()))
    for (path, g), s in zip(leaves, expected, strict=True)
  ]
  first, first_shape, _ = pairs[0]
  if all(shape == plain for _, shape, plain in pairs):
    raise ValueError(
      "The gradients are not stacked: each must be of shape [K, *param.shape] for K "
      f"tasks, got {_where(first)} of shape {first_shape}, the shape of the parameter "
      f"itself. {HOW_TO_STACK}"
    )
  for path, shape, plain in pairs:
    if len(shape) != len(plain) + 1 or shape[1:] != plain:
      raise ValueError(
        "The gradients must be of shape [K, *param.shape], got "
        f"{_where(path)} of shape {shape} for param.shape {plain} of {what}. "
        f"{HOW_TO_STACK}"
      )
    if shape[0] != first_shape[0]:
      raise ValueError(
        "All gradients must share one leading axis, the K tasks, got "
        f"{_where(first)} of shape {first_shape} and {_where(path)} of shape {shape}. "
        f"{HOW_TO_STACK}"
      )
  if first_shape[0] == 0:
    raise ValueError(
      f"There must be at least one task, got {_where(first)} of shape {first_shape}."
    )
  return first_shape[0]


def check_same_shapes(grads: Any, others: Any, name: str) -> None:
  """Raises unless ``others``, an extra argument, is like the stacked gradients."""
  structures: list[Any] = [jax.tree.structure(tree) for tree in (grads, others)]
  shapes = [list(map(jnp.shape, jax.tree.leaves(tree))) for tree in (grads, others)]
  if structures[0] != structures[1] or shapes[0] != shapes[1]:
    raise ValueError(
      f"`{name}` must be stacked gradients of the same tasks and parameters as the "
      f"gradients, {structures[0]} of shapes {shapes[0]}, got {structures[1]} of "
      f"shapes {shapes[1]}."
    )


def check_same_tasks(num_tasks: int, expected: int) -> None:
  """Raises unless the gradients are of as many tasks as the state."""
  if num_tasks != expected:
    raise ValueError(
      f"The gradients are of {num_tasks} tasks, but the state is of {expected}. Pass "
      "one gradient per task, or make a new transformation and a new state for "
      f"{num_tasks} tasks."
    )


def _where(path: Any) -> str:
  return f"the leaf {jax.tree_util.keystr(path) or 'at the root'}"
