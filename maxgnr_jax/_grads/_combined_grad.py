"""Steps with a single backward pass, between those that choose the weights anew."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from maxgnr_jax._checks import (
  check_aggregator,
  check_at_least_one,
  check_state,
  check_task_mask,
)
from maxgnr_jax._grads._task_grads import differentiated, value_and_task_grads
from maxgnr_jax._linalg._active import among


class CombinedGradState(NamedTuple):
  """State of :func:`value_and_combined_grad`.

  Attributes:
    count: [], int32. Number of steps, those between refreshes included.
    aggregator: The aggregator's own state, as the last refresh left it. Its ``weights``
      [K] are those in use: ``optax.tree.get(state, "weights")``.
  """

  count: jax.Array  # type: ignore[assignment]
  aggregator: optax.OptState


class CombinedGrad(NamedTuple):
  """What :func:`value_and_combined_grad` returns: two pure functions.

  Attributes:
    init: From the parameters to the first :class:`CombinedGradState`.
    value_and_grad: From a state, the losses' arguments and keyword arguments for the
      aggregator to ``(losses, gradient, state)``.
  """

  init: Callable[[optax.Params], CombinedGradState]
  value_and_grad: Callable[..., tuple[Any, optax.Updates, CombinedGradState]]


def value_and_combined_grad(
  fun: Callable[..., Any],
  aggregator: optax.GradientTransformation,
  *,
  refresh_every: int,
  argnum: int = 0,
  has_aux: bool = False,
  tasks_at_once: int | None = None,
  microbatches: int | None = None,
  batch_argnums: int | Sequence[int] = 1,
) -> CombinedGrad:
  """The gradient of K losses, combined with weights that are chosen every n-th step.

  The first step and every n-th after it take all K gradients, which the aggregator
  combines, and by which it changes its weights and its state. The steps between take
  one forward and a single backward pass, of ``Σ w_k L_k`` with the last weights, and
  leave the aggregator alone. Both kinds are in one compiled step, under
  :func:`jax.lax.cond`. What optimises then sees one gradient in every step.

  The aggregator counts refreshes, not steps. MaxGNR's momentum averages over
  1 / (1 - γ) refreshes, n times as many steps; a smaller γ makes up for it. Methods
  that learn from the losses, and schedules, go n times as slowly too.

  Between refreshes only a weighted sum can be taken. The updates of
  :func:`aggregators.graddrop`, :func:`aggregators.gradient_dropout`,
  :func:`aggregators.trimmed_mean`, :func:`aggregators.moco` and
  :func:`aggregators.db_mtl` are none: with these ``refresh_every`` must be 1, which is
  not checked. Nor are those of :func:`aggregators.modo` and
  :func:`aggregators.sdmgrad` with ``independent_grads``.

  Args:
    fun: As in :func:`value_and_task_grads`.
    aggregator: ``maxgnr()`` or a baseline by itself, also in
      :func:`optax.inject_hyperparams`: a transformation of stacked gradients to
      ``Σ w_k g_k`` that keeps its ``weights`` [K] in its state. With ``num_tasks``,
      or the second step is traced once more. What comes after belongs to the
      optimiser, which takes the combined gradient.
    refresh_every: n, at least 1. With 1 the gradient is exactly what the aggregator
      makes of :func:`value_and_task_grads`.
    argnum: Which positional argument to differentiate by.
    has_aux: As in :func:`value_and_task_grads`, like the following.
    tasks_at_once: Likewise.
    microbatches: Likewise, for both kinds of steps.
    batch_argnums: Likewise.

  Returns:
    A :class:`CombinedGrad`. Its ``value_and_grad(state, *args, **extra_args)`` takes
    the positional arguments of ``fun``; the keyword arguments are the aggregator's,
    beside ``losses``, which it always gets. It returns ``(losses, gradient, state)``,
    or ``((losses, aux), gradient, state)``; the gradient looks like the argument.

    With ``refresh``, a bool known when the step is traced, the caller says whether this
    step is a refresh. Jitted with ``static_argnames="refresh"`` that makes two compiled
    steps without a condition, which are faster on a CPU, for convolutions by far
    (``benchmarks/results/speed-refresh``).

    ``task_mask``, [K] or a pytree like the losses, bool, goes to the aggregator, and
    sets the weights of absent tasks to 0 in the steps between; the others keep theirs.
    A task that was absent from the last refresh has weight 0 until the next. The
    backward pass starts from the weights, so that a loss of weight 0 starts from zero,
    whatever its value. But zero times a derivative that is not finite is NaN, which
    reaches the parameters that tasks share: for the steps between, missing labels must
    be replaced before the loss, ``where(labelled, labels, 0)``, and numbers of labels
    be at least 1 in a mean.

  Raises:
    ValueError: if ``refresh_every`` is not an integer of at least 1; else what
      :func:`value_and_task_grads` and the aggregator raise.
    TypeError: if ``aggregator`` is no transformation; from ``init``, if its state holds
      no weights, as that of an :func:`optax.chain` or of
      :func:`aggregators.flat_regions`; for a traced ``refresh``.

  Example:
    >>> import jax.numpy as jnp
    >>> import optax
    >>> from maxgnr_jax import maxgnr, value_and_combined_grad
    >>> def losses(params):
    ...   return jnp.sum((params - 1.0) ** 2), jnp.sum(0.01 * params**2)
    >>> params = jnp.array([3.0, -1.0])
    >>> combined = value_and_combined_grad(
    ...   losses, maxgnr(num_tasks=2), refresh_every=4
    ... )
    >>> tx = optax.sgd(0.1)
    >>> state, opt_state = combined.init(params), tx.init(params)
    >>> for _ in range(3):  # a refresh and two steps with its weights
    ...   values, grad, state = combined.value_and_grad(state, params)
    ...   updates, opt_state = tx.update(grad, opt_state, params)
    ...   params = optax.apply_updates(params, updates)
    ...   print([f"{weight:.3f}" for weight in optax.tree.get(state, "weights")])
    ['0.011', '0.989']
    ['0.011', '0.989']
    ['0.011', '0.989']
  """
  check_aggregator(aggregator)
  check_at_least_one("refresh_every", refresh_every)
  inner = optax.with_extra_args_support(aggregator)
  batches: Any = {"microbatches": microbatches, "batch_argnums": batch_argnums}
  value_and_grads = value_and_task_grads(
    fun, argnum, has_aux, tasks_at_once=tasks_at_once, **batches
  )

  def init(params: optax.Params) -> CombinedGradState:
    state = inner.init(params)
    check_weights_in_state(state)
    return CombinedGradState(jnp.zeros((), jnp.int32), state)

  def value_and_grad(
    state: CombinedGradState,
    *args: Any,
    refresh: bool | None = None,
    **extra_args: Any,
  ) -> tuple[Any, optax.Updates, CombinedGradState]:
    check_state(state, CombinedGradState)
    check_refresh(refresh)
    weights = check_weights_in_state(state.aggregator)

    def choose_anew():
      value, grads = value_and_grads(*args)
      known = {"losses": value[0] if has_aux else value} | extra_args
      grad, after = inner.update(grads, state.aggregator, args[argnum], **known)
      return value, grad, after

    def keep():
      present = extra_args.get("task_mask")
      held = weights
      if present is not None:
        held = among(check_task_mask(present, weights.size), weights)

      def weigh(tangents, inputs, losses):
        pullback = jax.linear_transpose(tangents, *inputs)
        return pullback(_cotangents(held, losses))[0]

      value, grad = differentiated(fun, weigh, argnum, has_aux, **batches)(*args)
      return value, grad, state.aggregator

    # Without `num_tasks` there are no weights before the first step.
    if refresh_every == 1 or not weights.size:
      refresh = True
    if refresh is None:
      now = state.count % refresh_every == 0
      value, grad, after = jax.lax.cond(now, choose_anew, keep)
    else:
      value, grad, after = choose_anew() if refresh else keep()
    count = optax.safe_increment(state.count)
    return value, grad, CombinedGradState(count, after)

  return CombinedGrad(init, value_and_grad)


def _cotangents(weights: jax.Array, losses: Any) -> Any:
  """The weights in the place of the losses, a vector or a pytree of scalars."""
  leaves, treedef = jax.tree.flatten(losses)
  if [jnp.shape(leaf) for leaf in leaves] == [weights.shape]:
    parts = [weights]
  else:
    parts = [weights[k] for k in range(len(leaves))]
  dtypes = [jnp.result_type(leaf) for leaf in leaves]
  return jax.tree.unflatten(
    treedef, [part.astype(dtype) for part, dtype in zip(parts, dtypes, strict=True)]
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
