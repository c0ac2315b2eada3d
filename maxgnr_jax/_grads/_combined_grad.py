"""The combined gradient of K losses, by as few backward passes as it takes."""

from collections.abc import Callable, Sequence
from typing import Any, Generic, NamedTuple

import jax
import jax.numpy as jnp
import optax

from maxgnr_jax import _stacked
from maxgnr_jax._checks import (
  as_task_mask,
  check_aggregator,
  check_at_least_one,
  check_state,
)
from maxgnr_jax._grads._passes import MicrobatchPasses, Passes
from maxgnr_jax._grads._task_grads import Losses, differentiated
from maxgnr_jax._linalg import zero_inactive
from maxgnr_jax._task_names import check_same_names
from maxgnr_jax.aggregators._by_passes import STACKED, Kept, Update


class CombinedGradState(NamedTuple):
  """State of :func:`value_and_combined_grad`.

  Attributes:
    count: [], int32. Number of steps, those between refreshes included.
    aggregator: The aggregator's own state, as the last refresh left it. Its ``weights``
      [K] are those that steps until the next refresh use; read them with
      ``aggregator_state(state).weights``.
  """

  count: jax.Array  # type: ignore[assignment]
  aggregator: optax.OptState


class CombinedGrad(NamedTuple, Generic[Losses]):
  """Two pure functions, which :func:`value_and_combined_grad` returns.

  Attributes:
    init: Takes the parameters and returns the first :class:`CombinedGradState`.
    value_and_grad: Takes a state, the arguments of the losses and keyword arguments for
      the aggregator. Returns ``(losses, gradient, state)``.
  """

  init: Callable[[optax.Params], CombinedGradState]
  value_and_grad: Callable[..., tuple[Losses, optax.Updates, CombinedGradState]]


def value_and_combined_grad(
  fun: Callable[..., Losses],
  aggregator: optax.GradientTransformation,
  *,
  refresh_every: int = 1,
  argnum: int = 0,
  has_aux: bool = False,
  tasks_at_once: int | None = None,
  microbatches: int | None = None,
  batch_argnums: int | Sequence[int] = 1,
) -> CombinedGrad[Losses]:
  """Takes the combined gradient of K losses by as few backward passes as it can.

  The aggregator chooses the weights, and a backward pass of ``Σ w_k L_k`` makes the
  gradient. What the aggregator measures says what else is needed:

  - the losses, or nothing (:func:`aggregators.uncertainty`,
    :func:`aggregators.equal_weights`, ...): no other pass;
  - gradients of a part of the parameters (``shared=`` selects at most half of all
    numbers): K passes that end at that part. At the bias of the last layer that the
    tasks share they are nearly free;
  - sketches (``sketch=``): K passes one after the other, each of which is sketched and
    forgotten;
  - a Gramian (:func:`aggregators.mgda`, ...): K passes side by side, whose inner
    products are taken layer by layer;
  - anything else (:func:`maxgnr` without ``sketch``, groups, methods whose update is no
    weighted sum, methods of losses with ``rescale=``): the gradients are stacked and
    combined, without a further pass.

  With ``unshared="own"`` another pass goes through what ``shared`` leaves out.

  The result is that of :func:`value_and_task_grads` and the aggregator's ``update``, up
  to rounding. If a loss or a gradient is not finite, further passes take the tasks one
  by one, so that the others lose nothing. Two things differ: a method that measures no
  gradients looks for gradients of zero only if a loss is exactly 0; and with
  ``microbatches`` Gramian methods stack gradients, and the other ways go through the
  batch once more for the losses and once for the weighted gradient.

  With ``refresh_every`` n > 1, the first step and every n-th after it is a *refresh*,
  in which the aggregator updates its weights and its state as above. The steps between
  take a single backward pass with the last weights, and leave the aggregator alone.
  Under :func:`jax.jit` both kinds of steps are in one compiled function, under
  :func:`jax.lax.cond`; without it, each step runs its own kind.

  The aggregator counts refreshes, not steps. MaxGNR's momentum averages over
  1 / (1 - γ) refreshes, which are n times as many steps; a smaller γ makes up for that.
  Methods that learn from the losses, and schedules, are n times slower as well.

  Between refreshes only a weighted sum of the gradients can be made. Therefore
  aggregators without weights (:func:`aggregators.graddrop`,
  :func:`aggregators.gradient_dropout`, :func:`aggregators.trimmed_mean`,
  :func:`aggregators.moco` and :func:`aggregators.db_mtl`) need ``refresh_every=1``. The
  ``independent_grads`` of :func:`aggregators.modo` and :func:`aggregators.sdmgrad` are
  used at refreshes only, which then stack gradients.

  Args:
    fun: Function that returns the K losses, as :func:`value_and_task_grads` takes it.
    aggregator: ``maxgnr()`` or another aggregator by itself, not in a chain; it may be
      inside :func:`optax.inject_hyperparams`. A transformation of your own around it
      gets stacked gradients. Give it ``num_tasks``, or the second step
      is traced once more. Whatever follows the aggregator belongs to the optimiser,
      which takes the combined gradient.
    refresh_every: n, at least 1.
    argnum: Which positional argument to differentiate with respect to.
    has_aux: Whether ``fun`` returns auxiliary data besides the losses.
    tasks_at_once: How many backward passes of a refresh run side by side, as in
      :func:`value_and_task_grads`. Default: what the way needs; up to 16 that are taken
      one after the other are written out. With 1 they are in a loop, which compiles
      faster, and in which NaN in one loss reaches all gradients.
    microbatches: Number of equal parts in which the batch is taken, in both kinds of
      steps; see :func:`value_and_task_grads`. Default: the whole batch at once.
    batch_argnums: With ``microbatches``, which positional argument(s) hold the batch.

  Returns:
    A :class:`CombinedGrad`. Its ``value_and_grad(state, *args, **extra_args)`` takes
    the positional arguments of ``fun``. Keyword arguments go to the aggregator, which
    also gets ``losses``. It returns ``(losses, gradient, state)``, or
    ``((losses, aux), gradient, state)``; the gradient looks like the argument.

    With ``refresh``, a bool known when the step is traced, the caller decides whether
    this step is a refresh. Jitted with ``static_argnames="refresh"`` that makes two
    compiled functions without a condition, which are faster on a CPU, for convolutions
    by far (``benchmarks/results/speed-refresh``).

    ``task_mask``, bool, is a vector [K] in the order of the stacked gradients or a
    pytree that names the tasks as the losses do. It goes to the aggregator, and between
    refreshes it sets the weights of masked tasks to 0; the others keep theirs. A task
    that was inactive in the last refresh has weight 0 until the next. The backward pass
    starts from the weights, so that a loss of weight 0 starts from zero, whatever its
    value. But zero times a derivative that is not finite is NaN, which reaches the
    parameters of the trunk. Between refreshes, therefore, replace missing labels before
    the loss, ``where(labelled, labels, 0)``, and divide by at least 1 in a mean over
    labels.

  Raises:
    ValueError: if ``refresh_every`` is not an integer of at least 1; when called, for a
      ``task_mask`` that names other tasks than the losses; and whatever
      :func:`value_and_task_grads` and the aggregator raise.
    TypeError: if ``aggregator`` is no transformation, and for a traced ``refresh``;
      from ``init``, if the state is not that of a single aggregator, as with an
      :func:`optax.chain` or :func:`aggregators.flat_regions`, and, with
      ``refresh_every`` > 1, if the aggregator has no weights or has groups.

  Example:
    >>> import jax.numpy as jnp
    >>> import optax
    >>> from maxgnr_jax import aggregator_state, maxgnr, value_and_combined_grad
    >>> def losses(params):
    ...   return jnp.sum((params - 1.0) ** 2), jnp.sum(0.01 * params**2)
    >>> params = jnp.array([3.0, -1.0])
    >>> combined = value_and_combined_grad(losses, maxgnr(num_tasks=2, sketch=True))
    >>> tx = optax.sgd(0.1)
    >>> state, opt_state = combined.init(params), tx.init(params)
    >>> for _ in range(3):
    ...   values, grad, state = combined.value_and_grad(state, params)
    ...   updates, opt_state = tx.update(grad, opt_state, params)
    ...   params = optax.apply_updates(params, updates)
    ...   print([f"{weight:.3f}" for weight in aggregator_state(state).weights])
    ['0.011', '0.989']
    ['0.011', '0.989']
    ['0.011', '0.989']
  """
  check_aggregator(aggregator)
  check_at_least_one("refresh_every", refresh_every)
  if tasks_at_once is not None:
    check_at_least_one("tasks_at_once", tasks_at_once)
  if microbatches is not None:
    check_at_least_one("microbatches", microbatches)
  inner = optax.with_extra_args_support(aggregator)

  def init(params: optax.Params) -> CombinedGradState:
    state = inner.init(params)
    weights = weights_in_use(state)
    if refresh_every > 1:
      check_reusable(weights)
    return CombinedGradState(jnp.zeros((), jnp.int32), state)

  def value_and_grad(
    state: CombinedGradState,
    *args: Any,
    refresh: bool | None = None,
    **extra_args: Any,
  ) -> tuple[Any, optax.Updates, CombinedGradState]:
    check_state(state, CombinedGradState)
    check_refresh(refresh)
    weights = weights_in_use(state.aggregator)
    takes_passes = accepts_passes(inner.update, state.aggregator)
    params = args[argnum]

    def losses_of(value: Any) -> Any:
      return value[0] if has_aux else value

    def sweep(take: Callable[[Passes], Any]) -> tuple[Any, Any]:
      """Returns the value, and what ``take`` makes of the passes."""

      def backward(tangents, inputs, losses):
        never = state.count < 0
        return take(
          Passes(tangents, inputs[0], losses, tasks_at_once, never, after_forward)
        )

      return differentiated(
        fun,
        backward,
        argnum,
        has_aux,
        microbatches=microbatches,
        batch_argnums=batch_argnums,
      )(*args)

    def after_forward(take: Callable[[Passes], Any]) -> Any:
      """Computes the losses again, and returns what ``take`` makes of their passes."""
      return sweep(take)[1]

    def combine(passes: Any) -> tuple[Any, Any]:
      grads = passes if takes_passes else passes.stacked()
      known = {"losses": passes.losses} | extra_args
      return inner.update(grads, state.aggregator, params, **known)

    def refreshed():
      if microbatches is None:
        value, (grad, after) = sweep(combine)
        return value, grad, after
      if needs_stacked(inner.update, state.aggregator, params, extra_args):
        value, grads = sweep(lambda passes: passes.stacked())
        known = {"losses": losses_of(value)} | extra_args
        return value, *inner.update(grads, state.aggregator, params, **known)
      # Weights depend on the whole batch: its parts are gone through several times.
      value, _ = sweep(lambda passes: ())
      passes = MicrobatchPasses(after_forward, params, losses_of(value))
      return value, *combine(passes)

    def reused():
      assert weights is not None
      mask = extra_args.get("task_mask")

      def take(passes):
        _stacked.check_same_tasks(passes.num_tasks, weights.size)
        check_same_names({"losses": passes.losses, "task_mask": mask})
        takes_part = as_task_mask(mask, weights.size)
        if not takes_passes:
          return passes.weighted(zero_inactive(takes_part, weights))
        kept = Kept(passes, weights, takes_part)
        known = {"losses": passes.losses} | extra_args
        return inner.update(kept, state.aggregator, params, **known)[0]

      value, grad = sweep(take)
      return value, grad, state.aggregator

    # Without `num_tasks` there are no weights before the first step: it refreshes.
    if refresh_every == 1 or (weights is not None and not weights.size):
      refresh = True
    is_due = state.count % refresh_every == 0 if refresh is None else refresh
    if isinstance(is_due, jax.core.Tracer):
      value, grad, after = jax.lax.cond(is_due, refreshed, reused)
    else:
      value, grad, after = refreshed() if is_due else reused()
    count = optax.safe_increment(state.count)
    return value, grad, CombinedGradState(count, after)

  return CombinedGrad(init, value_and_grad)


def check_refresh(refresh: Any) -> None:
  """Raises unless ``refresh`` is None or a bool that is known at trace time."""
  if refresh is not None and not isinstance(refresh, bool):
    raise TypeError(
      "`refresh` must be None, or a bool that is known when the step is traced, got "
      f'{refresh!r}. Under `jax.jit` pass `static_argnames="refresh"`. With None, '
      "every `refresh_every`-th step by the state's count is a refresh."
    )


def accepts_passes(update: Callable[..., Any], state: Any) -> bool:
  """Tells whether an aggregator can be given :class:`Passes` for stacked gradients.

  That is the case for those of this library, also inside of
  :func:`optax.inject_hyperparams`.
  """
  wrapped = isinstance(
    state, (optax.InjectHyperparamsState, optax.InjectStatefulHyperparamsState)
  )
  return wrapped or isinstance(update, Update)


def needs_stacked(update: Any, state: Any, params: Any, extra_args: Any) -> bool:
  """Tells whether an aggregator is known to need stacked gradients of a whole batch."""
  if not accepts_passes(update, state):
    return True
  if not isinstance(update, Update):
    return False
  way = update.way(state, params, extra_args, side_by_side=False)
  return way.measures == STACKED


def weights_in_use(state: Any) -> jax.Array | None:
  """Returns the ``weights`` in an aggregator's state; None for methods without weights.

  Args:
    state: State of an aggregator, which :func:`optax.inject_hyperparams` may wrap.

  Raises:
    TypeError: if the state is not that of a single aggregator.
  """
  inside = state
  while hasattr(inside, "inner_state"):  # of `optax.inject_hyperparams`
    inside = inside.inner_state
  if not hasattr(inside, "weights"):
    raise TypeError(
      "`aggregator` must be a single transformation that keeps the weights [K] of its "
      "weighted sum as `weights` in its state, such as `maxgnr()`, got one with a "
      f"state of type {type(inside).__name__}. If it is an `optax.chain`, pass the "
      "aggregator alone, and apply the rest of the chain to the combined gradient."
    )
  return inside.weights


def check_reusable(weights: jax.Array | None) -> None:
  """Raises unless a single backward pass can make an update with these weights.

  Args:
    weights: From :func:`weights_in_use`.

  Raises:
    TypeError: if the aggregator has no weights, or several for each task.
  """
  if weights is None:
    raise TypeError(
      "With `refresh_every` > 1, `aggregator` must keep `weights` in its state, got "
      "one that keeps none: its update is no weighted sum of the task gradients, so "
      "that a single backward pass cannot make it. Pass `refresh_every=1`, or an "
      "aggregator with weights."
    )
  if jnp.ndim(weights) != 1:
    raise TypeError(
      "With `refresh_every` > 1, `aggregator` must have one weight per task, got one "
      "with weights for each of several groups of parameters, so that a single "
      "backward pass cannot make its update. Pass `refresh_every=1`, or leave `groups` "
      "out."
    )
