"""Backward passes through K losses, each of which is taken only if it is needed.

The stacked gradients of all parameters take K backward passes and the memory of K
gradients. Less is needed for a linear function of each gradient, one after the other
(where that reads a part of the gradient, XLA drops the rest of the pass), and for a
weighted sum, which takes a single pass.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from maxgnr_jax import _stacked
from maxgnr_jax._grads._staging import is_staged
from maxgnr_jax._grads._task_grads import (
  MOST_WRITTEN_OUT,
  backward_passes,
  count_losses,
  for_each_task,
  one_loss_at_a_time,
)
from maxgnr_jax._task_names import from_order, in_order, is_vector


class Passes:
  """Backward passes through the losses of a whole batch.

  Args:
    tangents: Linear map from tangents of the parameters to tangents of the losses.
    params: The parameters.
    losses: The K losses.
    tasks_at_once: As in :func:`value_and_task_grads`.
    never: [], bool. False, but unknown to the compiler.
    after_forward: Takes a function of :class:`Passes`. Computes the losses once more,
      and returns the function's result for the backward passes through those.
  """

  def __init__(
    self,
    tangents: Callable[..., Any],
    params: Any,
    losses: Any,
    tasks_at_once: int | None,
    never: jax.Array,
    after_forward: Callable[[Callable[["Passes"], Any]], Any],
  ):
    self.tangents, self.params, self.losses = tangents, params, losses
    self.tasks_at_once, self.never, self.after_forward = (
      tasks_at_once,
      never,
      after_forward,
    )
    self.num_tasks = count_losses(losses)
    written_out = tasks_at_once is None and self.num_tasks <= MOST_WRITTEN_OUT
    self.written_out = written_out
    # Each pass then starts from one loss, and meets no NaN of another.
    self.apart = written_out and not is_vector(losses)
    # Without `jax.jit` nothing is forgotten in time.
    self.goes_side_by_side = tasks_at_once is None and is_staged()

  @property
  def dtype(self) -> Any:
    """The dtype of the first parameter, which hyperparameters may be converted to."""
    return jnp.result_type(jax.tree.leaves(self.params)[0])

  def stacked(self) -> Any:
    """Returns the K gradients, stacked."""
    return backward_passes(
      self.tangents, [self.params], self.losses, self.tasks_at_once
    )[0]

  def linear(self, fun: Callable[[Any], Any]) -> Any:
    """Returns a linear function of each gradient, stacked.

    The passes are taken one after the other, and each gradient is forgotten before the
    next one begins.

    Args:
      fun: From a gradient to a pytree of floating-point arrays.
    """
    if not self.written_out:
      cotangents, tasks = one_loss_at_a_time(self.losses)
      at_once = self.tasks_at_once or 1
      return for_each_task(
        lambda c: fun(self._pull(c)), cotangents, tasks, min(at_once, tasks)
      )
    results, factor = [], jnp.ones(())
    for k in range(self.num_tasks):
      results.append(fun(self.gradient(k, factor)))
      factor = self._after(results[-1])
    return _stacked.stack(results)

  def side_by_side(self, fun: Callable[[Any], Any]) -> Any:
    """Returns ``fun`` of the stacked gradients, which are made layer by layer.

    All passes go through a layer together. If ``fun`` reduces each array by itself,
    none lives longer than its layer takes.
    """
    cotangents, _ = one_loss_at_a_time(self.losses)
    return fun(jax.vmap(self._pull)(cotangents))

  def weighted(
    self, weights: jax.Array, head_weights: jax.Array | None = None, trunk: Any = None
  ) -> Any:
    """Returns the gradient of ``Σ w_k L_k`` for weights [K], by a single pass.

    Args:
      weights: [K].
      head_weights: [K], other weights for parameters outside of the trunk. A further
        pass through these follows.
      trunk: The state's record of the trunk, to go with ``head_weights``.
    """
    gradient = self._pull(_cotangents(weights, self.losses))
    if head_weights is None:
      return gradient
    shared = _stacked.restrict(gradient, trunk)
    others = self._pull(_cotangents(head_weights, self.losses))
    return _stacked.merge([shared, _stacked.heads(others, shared)])

  def gradient(self, k: Any, factor: jax.Array | float = 1.0) -> Any:
    """Returns the gradient of task k, an int or traced, times ``factor``."""
    if not self.apart:
      chosen = jnp.arange(self.num_tasks) == k
      return self._pull(_cotangents(jnp.where(chosen, factor, 0.0), self.losses))
    if isinstance(k, jax.core.Tracer):
      branches = [lambda k=k: self.gradient(k, factor) for k in range(self.num_tasks)]
      return jax.lax.switch(k, branches)
    loss = in_order(self.losses)[k]
    pullback = jax.linear_transpose(
      lambda t: in_order(self.tangents(t))[k], self.params
    )
    return pullback(jnp.asarray(factor, jnp.result_type(loss)))[0]

  def fold(self, step: Callable[[Any, Any, Any], Any], start: Any) -> Any:
    """Calls ``carry = step(carry, k, gradient)`` for one task after the other.

    This is for the rare case, as :meth:`aside` is.
    """

    def turn(k: Any, carry: Any) -> Any:
      return self.aside(lambda passes, c: step(c, k, passes.gradient(k)), carry)

    if is_staged() and not self.apart:
      return jax.lax.fori_loop(0, self.num_tasks, turn, start)
    for k in range(self.num_tasks):
      start = turn(k, start)
    return start

  def aside(self, fun: Callable[["Passes", Any], Any], carry: Any) -> Any:
    """Returns ``fun`` of passes that follow a forward pass of their own, and ``carry``.

    If passes that are rarely taken used what the losses left behind for derivatives,
    all of that would be stored in every step. It would be, too, if they began with the
    same forward pass, which XLA moves out of loops. It does not move it out of a
    branch; and the loop around the branch, of one turn, keeps the carry in its place.
    """
    if not is_staged():
      return fun(self, carry)

    def turn(index, carry):
      return jax.lax.cond(
        index < 1,
        lambda carry: self.after_forward(lambda passes: fun(passes, carry)),
        lambda carry: carry,
        carry,
      )

    return jax.lax.fori_loop(0, jnp.where(self.never, 2, 1), turn, carry)

  def _pull(self, cotangents):
    return jax.linear_transpose(self.tangents, self.params)(cotangents)[0]

  def _after(self, result):
    """Returns 1 in such a way that the compiler computes ``result`` first.

    Otherwise it may begin all passes before it ends the first, and hold K gradients.
    """
    *_, last = [jnp.zeros(1), *(x for x in jax.tree.leaves(result) if x.size)]
    number = jnp.ravel(last)[0].astype(jnp.float32)
    return jnp.where(self.never & (number > 0), 2.0, 1.0)


class MicrobatchPasses:
  """Backward passes through the losses of a batch that is taken in parts.

  Args:
    sweep: From a function of the :class:`Passes` of a part to its mean over the parts.
    params: The parameters.
    losses: The K losses of the whole batch.
  """

  # What is not linear in the gradients cannot be averaged over the parts.
  goes_side_by_side = False

  def __init__(
    self, sweep: Callable[[Callable[[Passes], Any]], Any], params: Any, losses: Any
  ):
    self.sweep, self.params, self.losses = sweep, params, losses
    self.num_tasks = count_losses(losses)
    self.dtype = jnp.result_type(jax.tree.leaves(params)[0])

  def stacked(self) -> Any:
    """See :class:`Passes`."""
    return self.sweep(lambda passes: passes.stacked())

  def linear(self, fun: Callable[[Any], Any]) -> Any:
    """See :class:`Passes`."""
    return self.sweep(lambda passes: passes.linear(fun))

  def weighted(self, *args: Any) -> Any:
    """See :class:`Passes`."""
    return self.sweep(lambda passes: passes.weighted(*args))

  def fold(self, step: Callable[[Any, Any, Any], Any], start: Any) -> Any:
    """See :class:`Passes`."""

    def add(k, carry):
      return step(carry, k, self.sweep(lambda passes: passes.gradient(k)))

    if is_staged():
      return jax.lax.fori_loop(0, self.num_tasks, add, start)
    for k in range(self.num_tasks):
      start = add(k, start)
    return start


def _cotangents(weights: jax.Array, losses: Any) -> Any:
  """Returns the weights [K] in the structure and the dtypes of the losses."""
  if is_vector(losses):
    return weights.astype(losses.dtype)
  parts = [
    weights[k].astype(jnp.result_type(loss)) for k, loss in enumerate(in_order(losses))
  ]
  return from_order(parts, losses)
