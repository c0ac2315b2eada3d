"""Checks of arguments, which raise when a step is traced.

Each error names the argument, what it must be, what it was and what to do.
"""

import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from maxgnr_jax._stacked import DEFAULT_SIZE
from maxgnr_jax._task_names import in_order, is_vector


def check_at_least_one(name: str, value: Any) -> None:
  """Raises unless ``value`` is an integer >= 1, known at trace time."""
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
  """Raises unless ``value`` is an integer >= ``minimum``; lets a traced value pass."""
  if not isinstance(value, jax.core.Tracer):
    check_integer(name, value, minimum)


def check_num_tasks(num_tasks: Any) -> None:
  """Raises unless ``num_tasks`` is None or an integer >= 1; lets a traced value pass.

  Under :func:`optax.inject_hyperparams` it is traced, until ``init`` needs to know it.
  """
  if num_tasks is not None and not isinstance(num_tasks, jax.core.Tracer):
    check_at_least_one("num_tasks", num_tasks)


def as_num_tasks(num_tasks: Any) -> int:
  """Returns K for a new state, 0 for None.

  Raises:
    ValueError: if it is not an integer >= 1.
    TypeError: if it is traced.
  """
  if num_tasks is None:
    return 0
  check_at_least_one("num_tasks", num_tasks)
  return int(num_tasks)


def check_positive(name: str, value: Any) -> None:
  """Raises unless ``value > 0``; lets a traced value pass."""
  check_range(name, value, "positive", lambda x: x > 0)


def check_not_negative(name: str, value: Any) -> None:
  """Raises unless ``value >= 0``; lets a traced value pass."""
  check_range(name, value, "at least 0", lambda x: x >= 0)


def check_fraction(name: str, value: Any) -> None:
  """Raises unless ``0 <= value < 1``; lets a traced value pass."""
  check_range(name, value, "in [0, 1)", lambda x: 0 <= x < 1)


def check_range(
  name: str, value: Any, what: str, valid: Callable[[float], bool]
) -> None:
  """Raises unless ``value`` is a valid number; lets a traced value pass.

  Args:
    name: Name of the argument, for the message.
    value: Its value.
    what: What it must be, for the message, such as "in [0, 1)".
    valid: Tells whether a number is valid.
  """
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


def one_per_task(name: str, value: jax.typing.ArrayLike, like: jax.Array) -> jax.Array:
  """Returns ``value`` [K] in the dtype of ``like`` [K]; raises for other shapes."""
  value = jnp.asarray(value, like.dtype)
  if value.shape != like.shape:
    raise ValueError(
      f"`{name}` must hold one number per task, shape {like.shape}, got shape "
      f"{value.shape}."
    )
  return value


def check_solver(solver: Any) -> None:
  """Raises unless ``solver`` has a method to solve Eq. 17 with."""
  if not callable(getattr(solver, "solve", None)):
    raise TypeError(
      f"`solver` must be a `Solver`, such as `projected_newton()`, got {solver!r}. "
      "Call a function that makes one; wrap a rule of your own in `Solver(rule)`."
    )


def check_optimizer(optimizer: Any) -> None:
  """Raises unless ``optimizer`` is a gradient transformation."""
  _check_transformation("optimizer", optimizer, "optax.adam(0.025)")


def check_aggregator(aggregator: Any) -> None:
  """Raises unless ``aggregator`` is a gradient transformation."""
  _check_transformation("aggregator", aggregator, "maxgnr()")


def _check_transformation(name: str, value: Any, example: str) -> None:
  """Raises unless ``value`` is a transformation; ``example`` shows how to get one."""
  if not callable(getattr(value, "update", None)):
    raise TypeError(
      f"`{name}` must be an `optax.GradientTransformation`, such as `{example}`, got "
      f"{value!r}."
    )


def as_sketch_size(sketch: Any) -> int | None:
  """Returns the size of the sketches for an argument ``sketch``, None for none.

  Raises:
    ValueError: if it is neither None, False, True nor an odd integer from 3 to 65,535.
    TypeError: if it is traced.
  """
  if sketch is None or sketch is False:
    return None
  if sketch is True:
    return DEFAULT_SIZE
  if isinstance(sketch, jax.core.Tracer):
    check_integer("sketch", sketch, 3)  # raises
  try:
    size = operator.index(sketch)
  except TypeError:
    size = 0
  if size % 2 == 0 or not 3 <= size < 2**16:
    raise ValueError(
      "`sketch` must be None, True or an odd integer from 3 to 65,535, the number of "
      f"buckets, got {sketch!r}. Prime numbers such as 16,381 (which True takes) or "
      "65,521 suit best."
    )
  return size


def as_weights(weights: Any, shape: tuple[int, ...], dtype: Any) -> jax.Array:
  """Returns the weights that a rule chose as an array.

  Args:
    weights: What the rule returned.
    shape: The shape that they must have: [K], or [G, K] with groups.
    dtype: Dtype of the result.

  Raises:
    ValueError: if they have another shape.
  """
  weights = jnp.asarray(weights, dtype)
  if weights.shape != shape:
    raise ValueError(
      "The rule for the weights must return one weight per task, shape "
      f"{shape}, got shape {weights.shape}."
    )
  return weights


def as_task_values(name: str, values: Any, num_tasks: int, dtype: Any) -> jax.Array:
  """Returns the numbers per task in an extra argument of ``update`` as [K].

  Derivatives of the update do not pass through these numbers.

  Args:
    name: Name of the argument, for the message.
    values: A vector [K], in the order of the stacked gradients, or a pytree of K
      scalars, in the order of their names; None if it was not passed.
    num_tasks: K.
    dtype: Dtype of the result.

  Raises:
    TypeError: if it was not passed.
    ValueError: if it does not hold one number per task.
  """
  if values is None:
    raise TypeError(
      f"This method needs `{name}`, one number per task, got None. Pass "
      f"`tx.update(grads, opt_state, params, {name}={name})` or, with flax.nnx, "
      f"`optimizer.update(model, grads, {name}={name})`. The `TrainState` of "
      "flax.linen passes no extra arguments: call its `tx.update` yourself in place of "
      "`apply_gradients`."
    )
  return jax.lax.stop_gradient(_one_per_task(name, values, num_tasks, dtype))


def as_task_mask(mask: Any, num_tasks: int) -> jax.Array:
  """Returns ``task_mask`` as [K], bool.

  Args:
    mask: A vector [K], in the order of the stacked gradients, or a pytree of K bools,
      in the order of their names; False for inactive tasks. None masks no task.
    num_tasks: K.

  Raises:
    TypeError: if it does not hold bools.
    ValueError: if it does not hold one bool per task.
  """
  if mask is None:
    return jnp.ones((num_tasks,), bool)
  dtypes = {jnp.result_type(leaf) for leaf in jax.tree.leaves(mask)}
  if dtypes - {jnp.dtype(bool)}:
    raise TypeError(
      "`task_mask` must hold bools, True for a task that takes part in this step, got "
      f"{', '.join(sorted(map(str, dtypes)))}. Make bools of counts by a comparison, "
      "such as `task_mask=num_labels > 0`."
    )
  return _one_per_task("task_mask", mask, num_tasks, bool)


def _one_per_task(name: str, values: Any, num_tasks: int, dtype: Any) -> jax.Array:
  """Returns a vector [K] or a pytree of K scalars as [K]; raises for anything else."""
  leaves, vector = in_order(values), is_vector(values)
  shapes = [jnp.shape(leaf) for leaf in leaves]
  if shapes != ([(num_tasks,)] if vector else [()] * num_tasks):
    raise ValueError(
      f"`{name}` must hold one value per task, as a vector [{num_tasks}] in the order "
      f"of the stacked gradients or a pytree of {num_tasks} scalars, got "
      f"{jax.tree.structure(values)} with shapes {shapes}. Give it the structure of "
      "the losses that `value_and_task_grads` returns with the gradients."
    )
  if vector:
    return jnp.asarray(values, dtype)
  return jnp.stack([jnp.asarray(leaf, dtype) for leaf in leaves])


def check_state(state: Any, kind: type) -> None:
  """Raises unless ``state`` is a ``kind``, the transformation's type of state."""
  if not isinstance(state, kind):
    raise TypeError(
      f"The state must be the {kind.__name__} that this transformation's `init` made, "
      f"got {type(state).__name__}. Pass the state of an `optax.chain` to the chain's "
      "own `update`."
    )
