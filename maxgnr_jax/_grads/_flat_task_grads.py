"""Gradients at perturbed weights, for flat-region multi-task learning."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from maxgnr_jax import _stacked
from maxgnr_jax._checks import check_at_least_one, check_positive
from maxgnr_jax._grads._task_grads import for_each_task, value_and_task_grads


def value_and_flat_task_grads(
  fun: Callable[..., Any],
  radius: jax.typing.ArrayLike = 0.05,
  argnum: int = 0,
  has_aux: bool = False,
  *,
  adaptive: bool = False,
  shared: Any | Callable[[Any], Any] | None = None,
  tasks_at_once: int | None = None,
) -> Callable[..., tuple[Any, tuple[Any, Any]]]:
  """Like :func:`value_and_task_grads`, with what would lead each task to a flat region.

  Each task's parameters go the way its loss rises fastest, as far as ``radius``; its
  gradient there, at a task-specific point, is that of sharpness-aware minimisation.
  What it differs by from the gradient here is the flat part. Both parts are stacked:
  :func:`maxgnr_jax.aggregators.flat_regions` aggregates each by itself, as the paper
  does; their sum can be passed to any aggregator.

  Two forward and 2 K backward passes, where each task of the second half takes a
  forward pass of its own: about three times :func:`value_and_task_grads`.

  Args:
    fun: As in :func:`value_and_task_grads`.
    radius: ρ, positive: the length of the perturbation. The authors' code has 0.05, and
      2 for adaptive ones.
    argnum: Which positional argument to differentiate by.
    has_aux: As in :func:`value_and_task_grads`; auxiliary data are those of the
      unperturbed pass.
    adaptive: Whether perturbations are relative to the size of each parameter.
    shared: Pytree of bools like the argument (or a prefix of it), or a function from
      the argument to one: perturbations of the shared part and of the rest are then
      each of length ``radius``. Default: of all together.
    tasks_at_once: As in :func:`value_and_task_grads`.

  Returns:
    A function of the same arguments that returns ``(losses, (grads, flat_grads))``, or
    ``((losses, aux), (grads, flat_grads))``. Both gradients are
    stacked, [K, *shape] in each leaf.

  Raises:
    ValueError: if ``radius`` is not positive or ``tasks_at_once`` not at least 1.
    TypeError: as in :func:`value_and_task_grads`.

  Example:
    >>> import jax.numpy as jnp
    >>> from maxgnr_jax import value_and_flat_task_grads
    >>> def losses(params):
    ...   return jnp.sum(params**2), jnp.sum(3.0 * params)
    >>> params = jnp.array([0.0, 2.0])
    >>> _, (grads, flat_grads) = value_and_flat_task_grads(losses, radius=0.5)(params)
    >>> grads.tolist()
    [[0.0, 4.0], [3.0, 3.0]]
    >>> flat_grads.tolist()  # the second loss is as steep everywhere
    [[0.0, 1.0], [0.0, 0.0]]

  References:
    Phan et al., Beyond Losses Reweighting: Empowering Multi-Task Learning via the
    Generalization Perspective, 2022, as in the authors' code, which has the norms
    apart (``shared``) or together.
  """
  check_positive("radius", radius)
  if tasks_at_once is not None:
    check_at_least_one("tasks_at_once", tasks_at_once)
  plain = value_and_task_grads(fun, argnum, has_aux, tasks_at_once=tasks_at_once)

  @functools.wraps(fun)
  def value_and_flat_task_grads_fun(*args, **kwargs):
    value, grads = plain(*args, **kwargs)
    params = jax.tree.map(jnp.asarray, args[argnum])
    num_tasks = jax.tree.leaves(grads)[0].shape[0]

    def grad_there(task_and_grad):
      task, grad = task_and_grad

      def loss(moved):
        full = list(args)
        full[argnum] = moved
        losses = fun(*full, **kwargs)
        losses = jax.tree.leaves(losses[0] if has_aux else losses)
        dtype = _stacked.compute_dtype(losses)
        return jnp.concatenate([jnp.ravel(x).astype(dtype) for x in losses])[task]

      return jax.grad(loss)(_perturb(params, grad, radius, adaptive, shared))

    tasks = (jnp.arange(num_tasks), grads)
    there = for_each_task(grad_there, tasks, num_tasks, tasks_at_once)
    return value, (grads, jax.tree.map(jnp.subtract, there, grads))

  return value_and_flat_task_grads_fun


def _perturb(params, grad, radius, adaptive, shared):
  """One task's parameters, moved up its gradient."""
  sizes, treedef = jax.tree.flatten(params)
  slopes = jax.tree.leaves(grad)
  together = jax.tree.leaves(_stacked.trunk_mask(shared, params))
  dtype = _stacked.compute_dtype(params)
  scales = [jnp.abs(p) if adaptive else jnp.ones_like(p) for p in sizes]

  moved = list(sizes)
  for group in (True, False):
    members = [i for i, inside in enumerate(together) if inside == group]
    if members:
      # Of a single task, as a stacked pytree of one.
      scaled = [(scales[i] * slopes[i])[None] for i in members]
      length = _stacked.norms(scaled, dtype)[0]
      factor = jnp.asarray(radius, dtype) / jnp.where(length > 0, length, 1.0)
      for i in members:
        step = factor * (scales[i] ** 2 * slopes[i]).astype(dtype)
        moved[i] = sizes[i] + step.astype(sizes[i].dtype)
  return jax.tree.unflatten(treedef, moved)
