"""A second attempt at an update, for methods that do not measure the gradients."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from maxgnr_jax import _stacked


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

  # A loop of no or one turn: XLA would copy what comes out of a branch.
  good = _stacked.all_finite(result[:2])
  first = jax.lax.stop_gradient((good, finite, result))
  again, numbers = jax.closure_convert(again, first)
  numbers = jax.lax.stop_gradient(numbers)
  _, finite, found = jax.lax.while_loop(
    lambda carry: ~carry[0], lambda carry: again(carry, *numbers), first
  )
  # The loop has no derivative, but a branch has one. It is only computed for that.
  branch = jax.lax.cond(good, lambda: result, lambda: attempt(finite))
  return finite, _with_derivative_of(branch, found)


@jax.custom_jvp
def _with_derivative_of(branch: Any, found: Any) -> Any:
  """Returns ``found``, with the derivative of ``branch``."""
  del branch
  return found


@_with_derivative_of.defjvp
def _(primals, tangents):
  return primals[1], tangents[0]
