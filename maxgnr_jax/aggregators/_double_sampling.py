"""MoDo and SDMGrad, which choose weights from the gradients of two batches.

If g and g' come from independent batches, the expectation of ``⟨g_i, g'_j⟩`` is the
product of the expected gradients. That of ``⟨g_i, g_j⟩`` from one batch also contains
the noise, so that tasks with more noise seem to have larger gradients.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from maxgnr_jax import _stacked
from maxgnr_jax._checks import (
  check_fraction,
  check_not_negative,
  check_positive,
  check_whole,
)
from maxgnr_jax._linalg import (
  matvec,
  num_active,
  project_on_simplex,
  remember,
  square_root,
  uniform_weights,
  zero_inactive,
)
from maxgnr_jax._stacked import Labels
from maxgnr_jax.aggregators._base import (
  Choice,
  Memory,
  Method,
  Shared,
  Step,
  aggregator,
)
from maxgnr_jax.aggregators._by_passes import STACKED, Update
from maxgnr_jax.aggregators._gramian import (
  finite_in,
  in_each_group,
  measure_gramian,
  skips_zero_gradients,
  tasks_of_group,
)
from maxgnr_jax.aggregators._remembered import shares
from maxgnr_jax.aggregators._reuse import reuses_steps

# What the frame calls the gradients of the two batches.
BATCHES = ("first_grads", "second_grads")


@reuses_steps
def modo(
  gamma: jax.typing.ArrayLike = 0.1,
  rho: jax.typing.ArrayLike = 0.1,
  *,
  num_tasks: int | None = None,
  shared: Shared = None,
  groups: Labels = None,
  sketch: int | bool | None = None,
  zero_gradients: str = "inactive",
  smoothing: jax.typing.ArrayLike | None = None,
  unshared: str = "weighted",
  rescale: str | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Moves the weights one step at a time towards those of MGDA, using two batches.

  Each update takes the step ``w ← Π(w - γ (G w + ρ w))``, where Π projects on the
  simplex and ``G_ij = ⟨g_i, g'_j⟩``. Pass ``independent_grads=`` to ``update``: the
  stacked gradients g' of a second batch, with the same shapes as ``grads``. The weights
  are then applied to the mean of g and g'. Without them g' = g, and noise biases the
  weights.

  Args:
    gamma: γ, step size of the weights, at least 0, in units of 1 / ‖g‖². The authors
      try 0.01 to 1.
    rho: ρ, regularisation that draws the weights towards uniform ones, at least 0.
    num_tasks: K, at least 1. By default it is taken from the first gradients, which
      changes the shapes of the state at the first step.
    shared: Selects the trunk, where gradients are measured: a pytree of bools like the
      parameters (or a prefix of it), or a function from the parameters to one. Default:
      all parameters.
    groups: Parameters that get task weights of their own: "layer", "parameter", a
      pytree of labels like the parameters or a prefix of it, or a function from the
      parameters to one. Default: the same weights for all.
    sketch: Measures sketches of the gradients, as :func:`gramian_method` explains:
      True, or an odd number of buckets from 3 to 65,535. The larger γ ‖g‖², the more
      errors grow. Default: exact measurement.
    zero_gradients: "inactive" or "active": whether a task whose gradient is exactly
      zero is left out of the step, as if ``task_mask`` were False for it, or takes part
      as the method defines it: it draws all weight, and the update vanishes.
    smoothing: Decay rate, in [0, 1), of an average of the weights over the steps, as in
      :func:`~maxgnr_jax.maxgnr`. Default: no average.
    unshared: "weighted" or "own", the gradients of parameters outside of ``shared``, as
      in :func:`~maxgnr_jax.maxgnr`.
    rescale: "mean" makes the update as long as the mean of the gradients, as in
      :func:`~maxgnr_jax.maxgnr`. Default: as long as the weights make it.

  Returns:
    An :class:`optax.GradientTransformationExtraArgs` with :class:`AggregatorState`,
    whose memory holds ``simplex_weights``, [K] or [G, K] with groups: the weights that
    the next step would start from with all tasks active.

  Raises:
    ValueError: for ``gamma`` < 0, ``rho`` < 0, ``num_tasks`` < 1 or another
      value of ``zero_gradients``; at the trace of
      ``update``, for gradients that are not stacked or of another number of tasks, and
      for ``independent_grads`` of other shapes than the gradients.
    TypeError: for integer or complex parameters or gradients.

  Example:
    >>> import jax.numpy as jnp
    >>> from maxgnr_jax.aggregators import modo
    >>> tx = modo(gamma=0.5, rho=0.0)
    >>> grads = jnp.array([[1.0, 0.0], [0.0, 0.5]])
    >>> _, state = tx.update(grads, tx.init(jnp.zeros(2)), independent_grads=grads)
    >>> [f"{weight:.2f}" for weight in state.weights]
    ['0.41', '0.59']

  References:
    Chen et al., Three-Way Trade-Off in Multi-Objective Learning: Optimization,
    Generalization and Conflict-Avoidance, NeurIPS 2023, Eq. 2.9. The authors' code sums
    both batches' gradients; LibMTL takes a third batch for the update.
  """
  check_not_negative("gamma", gamma)
  check_not_negative("rho", rho)

  def move(gramian: jax.Array, w: jax.Array, active: jax.Array) -> Any:
    slope = matvec(gramian, w) + jnp.asarray(rho, w.dtype) * w
    w = _project(active, w - jnp.asarray(gamma, w.dtype) * slope)
    return w, w

  return _two_batches(
    move,
    zero_gradients,
    num_tasks=num_tasks,
    shared=shared,
    groups=groups,
    sketch=sketch,
    smoothing=smoothing,
    unshared=unshared,
    rescale=rescale,
  )


@reuses_steps
def sdmgrad(
  direction: jax.typing.ArrayLike = 0.3,
  *,
  learning_rate: jax.typing.ArrayLike = 10.0,
  momentum: jax.typing.ArrayLike = 0.5,
  num_steps: int = 20,
  num_tasks: int | None = None,
  shared: Shared = None,
  groups: Labels = None,
  sketch: int | bool | None = None,
  zero_gradients: str = "inactive",
  smoothing: jax.typing.ArrayLike | None = None,
  unshared: str = "weighted",
  rescale: str | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Draws the weights of MGDA towards uniform ones, using two batches.

  The weights are ``(w + λ/K) / (1 + λ)``, where w minimises ``½ ‖g_w + λ g_0‖²`` on the
  simplex, with ``g_w = Σ w_k g_k`` and the mean gradient ``g_0``. Each update moves w
  by ``num_steps`` steps of projected gradient descent with momentum, starting from the
  last update's w. Pass ``independent_grads=`` to ``update``: the stacked gradients of a
  second batch, with the same shapes as ``grads``. The weights are then applied to the
  mean of both batches' gradients. Without them noise biases the weights.

  Args:
    direction: λ, at least 0. With 0 the weights are those of MGDA; the larger λ, the
      nearer they are to uniform ones.
    learning_rate: Step size of the inner projected-gradient loop; positive. Gradients
      are first divided by their mean norm over the active tasks.
    momentum: Momentum of the inner loop, in [0, 1).
    num_steps: Number of inner steps per update, at least 1.
    num_tasks: K, at least 1. By default it is taken from the first gradients, which
      changes the shapes of the state at the first step.
    shared: Selects the trunk, where gradients are measured: a pytree of bools like the
      parameters (or a prefix of it), or a function from the parameters to one. Default:
      all parameters.
    groups: Parameters that get task weights of their own: "layer", "parameter", a
      pytree of labels like the parameters or a prefix of it, or a function from the
      parameters to one. Default: the same weights for all.
    sketch: Measures sketches of the gradients, as :func:`gramian_method` explains:
      True, or an odd number of buckets from 3 to 65,535. The inner loop must settle, or
      small errors grow in it: choose a smaller ``learning_rate``. Default: exact
      measurement.
    zero_gradients: "inactive" or "active": whether a task whose gradient is exactly
      zero is left out of the step, as if ``task_mask`` were False for it, or takes part
      as the method defines it: it draws all weight, and the update vanishes.
    smoothing: Decay rate, in [0, 1), of an average of the weights over the steps, as in
      :func:`~maxgnr_jax.maxgnr`. Default: no average.
    unshared: "weighted" or "own", the gradients of parameters outside of ``shared``, as
      in :func:`~maxgnr_jax.maxgnr`.
    rescale: "mean" makes the update as long as the mean of the gradients, as in
      :func:`~maxgnr_jax.maxgnr`. Default: as long as the weights make it.

  Returns:
    An :class:`optax.GradientTransformationExtraArgs` with :class:`AggregatorState`,
    whose memory holds ``simplex_weights``, [K] or [G, K] with groups: the w that the
    next step would start from with all tasks active.

  Raises:
    ValueError: for ``direction`` < 0, ``learning_rate`` <= 0, ``momentum`` outside
      [0, 1), ``num_steps`` < 1, ``num_tasks`` < 1 or another value of
      ``zero_gradients``; at the trace of ``update``, for
      gradients that are not stacked or of another number of tasks, and for
      ``independent_grads`` of other shapes than the gradients.
    TypeError: for integer or complex parameters or gradients.

  Example:
    >>> import jax.numpy as jnp
    >>> from maxgnr_jax.aggregators import sdmgrad
    >>> tx = sdmgrad(direction=1.0, learning_rate=0.2)
    >>> grads = jnp.array([[1.0, 0.0], [0.0, 0.5]])
    >>> _, state = tx.update(grads, tx.init(jnp.zeros(2)), independent_grads=grads)
    >>> [f"{weight:.2f}" for weight in state.weights]
    ['0.25', '0.75']

  References:
    Xiao et al., Direction-oriented Multi-objective Learning: Simple and Provable
    Stochastic Algorithms, NeurIPS 2023, Algorithm 1, with the settings of the authors'
    code. They take the update's gradients from a third batch.
  """
  check_not_negative("direction", direction)
  check_positive("learning_rate", learning_rate)
  check_fraction("momentum", momentum)
  check_whole("num_steps", num_steps, 1)

  def move(gramian: jax.Array, w: jax.Array, active: jax.Array) -> Any:
    dtype = w.dtype
    lengths = square_root(jnp.diagonal(gramian))
    scale = jnp.sum(lengths) / num_active(active, dtype)
    scale = jnp.where(scale > 0, scale, 1.0)
    gramian = gramian / scale / scale
    lam = jnp.asarray(direction, dtype)
    mean = uniform_weights(active, dtype)

    def descend(_, carry):
      w, velocity = carry
      slope = matvec(gramian, w + lam * mean)
      velocity = jnp.asarray(momentum, dtype) * velocity + slope
      moved = w - jnp.asarray(learning_rate, dtype) * velocity
      return _project(active, moved), velocity

    start = (w, jnp.zeros_like(w))
    w, _ = jax.lax.fori_loop(0, num_steps, descend, start)
    return (w + lam * mean) / (1.0 + lam), w

  return _two_batches(
    move,
    zero_gradients,
    num_tasks=num_tasks,
    shared=shared,
    groups=groups,
    sketch=sketch,
    smoothing=smoothing,
    unshared=unshared,
    rescale=rescale,
  )


def _project(active: jax.Array, vector: jax.Array) -> jax.Array:
  """Projects ``vector`` [K] on the simplex of the active tasks; 0 for the others."""
  return project_on_simplex(jnp.where(active, vector, -jnp.inf))


def _two_batches(
  move: Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]],
  zero_gradients: str,
  **frame: Any,
) -> optax.GradientTransformationExtraArgs:
  """Makes an aggregator that takes ``independent_grads``.

  Args:
    move: From ``⟨g_i, g'_j⟩`` [K, K], the last simplex weights [K] and the active tasks
      [K] to the weights of the update [K] and the next simplex weights [K].
    zero_gradients: See :func:`modo`.
    **frame: Arguments of :func:`aggregator`.
  """
  skips_zero = skips_zero_gradients(zero_gradients)

  def init(params: Any, shape: tuple[int, ...], dtype: Any) -> Memory:
    del params
    return {"simplex_weights": jnp.full(shape, 1.0 / max(shape[-1], 1), dtype)}

  def choose(gramian: jax.Array, active: jax.Array, memory: Memory) -> Choice:
    in_groups = skips_zero and gramian.ndim == 3

    def choose_in_group(gramian, last):
      used = tasks_of_group(active, gramian) if in_groups else active
      w, total = shares(used, last)
      weights, w = move(zero_inactive(used, gramian, axes=2), w, used)
      return weights, remember(used, total * w, last)

    weights, w = in_each_group(choose_in_group, gramian, memory["simplex_weights"])
    return Choice(weights, {"simplex_weights": w})

  def measure(step: Step, memory: Memory) -> tuple[jax.Array, jax.Array]:
    if not step.further:
      return measure_gramian(step, memory)
    products = step.gramian(*(step.further[name] for name in BATCHES))
    return products, step.finite() & finite_in(products)

  method = Method(
    measure,
    choose,
    init,
    gradients=BATCHES,
    measures="gramian",
    skips_zero=skips_zero,
  )
  inner = aggregator(method, **frame)

  def update(grads, state, params=None, *, independent_grads=None, **extra_args):
    if independent_grads is None:
      return inner.update(grads, state, params, **extra_args)
    _stacked.check_same_shapes(grads, independent_grads, "independent_grads")
    mean = jax.tree.map(lambda a, b: a + 0.5 * (b - a), grads, independent_grads)
    batches = dict(zip(BATCHES, (grads, independent_grads), strict=True))
    return inner.update(mean, state, params, **extra_args, **batches)

  def way(state, params, extra_args, side_by_side):
    served = inner.update.way(state, params, extra_args, side_by_side)
    if extra_args.get("independent_grads") is not None:
      return served._replace(measures=STACKED)
    return served

  return optax.GradientTransformationExtraArgs(inner.init, Update(update, way))
