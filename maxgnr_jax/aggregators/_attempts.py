"""Further attempts at an update that did not come out finite."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from maxgnr_jax import _stacked

# The first turn finds the tasks to leave out, the second makes the others' update.
MOST_TURNS = 3


def without_spoilers(
  attempt: Callable[[jax.Array], Any],
  result: Any,
  finite: jax.Array,
  grads: optax.Updates,
  dtype: Any,
) -> tuple[jax.Array, Any]:
  """Makes the update once more without tasks that spoil it, if there are any.

  Args:
    attempt: From the tasks that are finite, [K] bool, to the result.
    result: What ``attempt`` made of ``finite``.
    finite: [K], bool: the tasks not known to be anything else.
    grads: Stacked pytree.
    dtype: Dtype of K-sized arithmetic.

  Returns:
    The tasks that are finite, and the result.
  """

  def again(carry):
    finite = carry[1] & _stacked.finite(grads, carry[1].size, dtype)
    return jnp.ones((), bool), finite, attempt(finite)

  good = _stacked.all_finite(result[:2])
  _, finite, found = _repeated(lambda carry: ~carry[0], again, (good, finite, result))
  # The loop has no derivative, but a branch has one. It is only computed for that.
  branch = jax.lax.cond(good, lambda: result, lambda: attempt(finite))
  return finite, _with_derivative_of(branch, found)


def until_good(good: jax.Array, result: Any, again: Callable[[Any], Any]) -> Any:
  """Makes a result again until it is good, at most ``MOST_TURNS`` times.

  Derivatives are those of the first result.

  Args:
    good: [], bool: whether the first result is good.
    result: Pytree of arrays.
    again: From a result to whether the next one is good, and the next one.
  """
  if not isinstance(good, jax.core.Tracer):
    for _ in range(MOST_TURNS):
      if not good:
        good, result = again(result)
    return result

  def turn(carry):
    return carry[0] + 1, *again(carry[2])

  first = (jnp.zeros((), jnp.int32), good, result)

  def goes_on(carry):
    return ~carry[1] & (carry[0] < MOST_TURNS)

  return _with_derivative_of(result, _repeated(goes_on, turn, first)[2])


def _repeated(goes_on, turn, first):
  """Runs a loop of mostly no turns, which derivatives do not see.

  XLA would copy what comes out of a branch.
  """
  first = jax.lax.stop_gradient(first)
  turn, numbers = jax.closure_convert(turn, first)
  numbers = jax.lax.stop_gradient(numbers)
  return jax.lax.while_loop(goes_on, lambda carry: turn(carry, *numbers), first)


@jax.custom_jvp
def _with_derivative_of(branch: Any, found: Any) -> Any:
  """Returns ``found``, with the derivative of ``branch``."""
  del branch
  return found


@_with_derivative_of.defjvp
def _(primals, tangents):
  return primals[1], tangents[0]
