"""Gradients at perturbed parameters, for flat-region multi-task learning."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from maxgnr_jax import _stacked
from maxgnr_jax._checks import check_at_least_one, check_positive
from maxgnr_jax._grads._task_grads import (
  Arguments,
  Losses,
  for_each_task,
  value_and_task_grads,
)
from maxgnr_jax._task_names import in_order


def value_and_flat_task_grads(
  fun: Callable[Arguments, Losses],
  radius: jax.typing.ArrayLike = 0.05,
  argnum: int = 0,
  has_aux: bool = False,
  *,
  adaptive: bool = False,
  shared: Any | Callable[[Any], Any] | None = None,
  tasks_at_once: int | None = None,
) -> Callable[Arguments, tuple[Losses, tuple[Any, Any]]]:
  """Differentiates K losses at the parameters and where each task's loss rises fastest.

  For each task the parameters are moved up that task's gradient by a distance of
  ``radius``. Sharpness-aware minimisation descends the gradient at this point. It is
  returned in two parts: the gradient at the parameters themselves, the same as from
  :func:`value_and_task_grads`, and the difference, the *flat* gradient, which leads the
  task to a flat region. :func:`maxgnr_jax.aggregators.flat_regions` aggregates each
  part by itself, as the paper does. Any other aggregator can take their sum.

  This takes one forward and K backward passes at the parameters, then a forward and a
  backward pass for each task at its perturbed parameters: about three times as long as
  :func:`value_and_task_grads`.

  Args:
    fun: Function that returns the K losses: a vector [K] or a pytree of scalars. With
      ``has_aux`` a pair of the losses and auxiliary data.
    radius: ρ, positive: the Euclidean length of the perturbation. The authors' code
      uses 0.05, and 2 with ``adaptive``.
    argnum: Which positional argument to differentiate with respect to.
    has_aux: Whether ``fun`` returns auxiliary data besides the losses. Those of the
      unperturbed pass are returned.
    adaptive: Whether to perturb each parameter in proportion to its magnitude.
    shared: Selects the trunk: a pytree of bools like the argument (or a prefix of it),
      or a function from the argument to one. The perturbation of the trunk and that of
      the heads then have length ``radius`` each. Default: one perturbation of that
      length for all parameters.
    tasks_at_once: How many backward passes run side by side, at least 1; see
      :func:`value_and_task_grads`.

  Returns:
    A function of the same arguments that returns ``(losses, (grads, flat_grads))``, or
    ``((losses, aux), (grads, flat_grads))`` with ``has_aux``. Both gradients have the
    structure of the argument and ``[K, *shape]`` in each leaf.

  Raises:
    ValueError: if ``radius`` is not positive or ``tasks_at_once`` is not an integer of
      at least 1; when called, if ``shared`` is not like the argument or selects none
      of its arrays, or only arrays of size 0.
    TypeError: when called, as in :func:`value_and_task_grads`, and if ``shared`` holds
      anything but bools.

  Example:
    >>> import jax.numpy as jnp
    >>> from maxgnr_jax import value_and_flat_task_grads
    >>> def losses(params):
    ...   return jnp.sum(params**2), jnp.sum(3.0 * params)
    >>> params = jnp.array([0.0, 2.0])
    >>> _, (grads, flat_grads) = value_and_flat_task_grads(losses, radius=0.5)(params)
    >>> grads.tolist()
    [[0.0, 4.0], [3.0, 3.0]]
    >>> flat_grads.tolist()  # the second loss has the same slope everywhere
    [[0.0, 1.0], [0.0, 0.0]]

  References:
    Phan et al., Beyond Losses Reweighting: Empowering Multi-Task Learning via the
    Generalization Perspective, 2022. As in the authors' code, the trunk and the heads
    may be perturbed by separate norms (``shared``) or by a common one.
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
    in_trunk = tuple(jax.tree.leaves(_stacked.trunk_mask(shared, params)))

    def perturbed_grad(task_and_grad):
      task, grad = task_and_grad

      def loss(perturbed):
        full = list(args)
        full[argnum] = perturbed
        value: Any = fun(*full, **kwargs)
        losses = in_order(value[0] if has_aux else value)
        dtype = _stacked.compute_dtype(losses)
        return jnp.concatenate([jnp.ravel(x).astype(dtype) for x in losses])[task]

      return jax.grad(loss)(_perturb(params, grad, radius, adaptive, in_trunk))

    tasks = (jnp.arange(num_tasks), grads)
    perturbed_grads = for_each_task(perturbed_grad, tasks, num_tasks, tasks_at_once)
    return value, (grads, jax.tree.map(jnp.subtract, perturbed_grads, grads))

  return value_and_flat_task_grads_fun


# Without `jit` the loops in `norms` would be compiled at each call.
@functools.partial(jax.jit, static_argnames=("adaptive", "in_trunk"), inline=True)
def _perturb(params, grad, radius, adaptive, in_trunk):
  """Moves one task's parameters up its gradient by a distance of ``radius``.

  Args:
    params: Pytree of parameters.
    grad: Pytree like it, one task's gradient.
    radius: Length of the perturbation.
    adaptive: As in :func:`value_and_flat_task_grads`.
    in_trunk: For each parameter whether it belongs to the trunk.
  """
  leaves, treedef = jax.tree.flatten(params)
  slopes = jax.tree.leaves(grad)
  dtype = _stacked.compute_dtype(params)
  scales = [jnp.abs(p) if adaptive else jnp.ones_like(p) for p in leaves]

  perturbed = list(leaves)
  for part in (True, False):  # the trunk, the heads
    members = [i for i, inside in enumerate(in_trunk) if inside == part]
    if members:
      # `norms` takes stacked pytrees: this one has a single task.
      scaled = [(scales[i] * slopes[i])[None] for i in members]
      length = _stacked.norms(scaled, dtype)[0]
      factor = jnp.asarray(radius, dtype) / jnp.where(length > 0, length, 1.0)
      for i in members:
        step = factor * (scales[i] ** 2 * slopes[i]).astype(dtype)
        perturbed[i] = leaves[i] + step.astype(leaves[i].dtype)
  return jax.tree.unflatten(treedef, perturbed)
