"""From the losses of several tasks to stacked gradients."""

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from maxgnr_jax import _stacked
from maxgnr_jax._checks import check_at_least_one
from maxgnr_jax._grads._microbatches import check_batch, mean_over_microbatches

# Backward passes that are written out: each adds to the time that compiling takes.
MOST_WRITTEN_OUT = 16


def value_and_task_grads(
  fun: Callable[..., Any],
  argnums: int | Sequence[int] = 0,
  has_aux: bool = False,
  *,
  tasks_at_once: int | None = None,
  microbatches: int | None = None,
  batch_argnums: int | Sequence[int] = 1,
) -> Callable[..., tuple[Any, Any]]:
  """Like :func:`jax.value_and_grad`, for a function that returns K losses.

  One forward pass and K backward passes, of the whole batch or, with ``microbatches``,
  of one part of it after the other.

  A loss that is not finite leaves the other tasks' gradients alone, where the backward
  passes are written out (see ``tasks_at_once``) and ``fun`` returns scalars, not a
  vector: elsewhere 0 times NaN is NaN.

  Args:
    fun: Function that returns the K losses: a vector [K], or a pytree of scalars
      such as a dict, whose keys name the tasks (see :func:`task_names`). With
      ``has_aux`` a pair of these and auxiliary data.
    argnums: Which positional argument(s) to differentiate with respect to.
    has_aux: Whether ``fun`` returns auxiliary data besides the losses.
    tasks_at_once: How many backward passes run side by side under :func:`jax.vmap`,
      at least 1; 1 runs one after another in a loop. Default: none side by side but
      all K written out, for up to 16 tasks, and above that all side by side. Of the
      steps measured on a CPU (``benchmarks/results/speed-steps``) this was never far
      from the fastest: ``vmap`` leaves gradients in a layout that what follows reads
      slowly, and convolutions are slow in a loop. ``vmap`` compiles faster, and a
      loop needs the least memory where K is large.
    microbatches: n, at least 1: the batch is taken in n equal parts, one after the
      other, with the activations of a single part in memory at a time. Losses and
      gradients are the means over the parts, of sums in float32 at least. Those are the
      whole batch's where each loss is a mean over the rows that does not mix them, as
      batch normalisation does. Default: the whole batch at once.
    batch_argnums: With ``microbatches``, which positional argument(s) hold the batch:
      pytrees of arrays with rows on the leading axis, as many in each as n divides.
      Part i holds the rows i, i + n, i + 2 n and so on. All other arguments are the
      same for every part, a PRNG key too: ``jax.random.split(key, n)``, named here,
      gives each part one of its own, ``[1]``.

  Returns:
    A function of the same arguments that returns ``(losses, grads)``, or
    ``((losses, aux), grads)`` with ``has_aux``. ``losses`` is as ``fun`` returned
    it; ``grads`` looks like the argument, ``[K, *shape]`` in each leaf (a tuple of
    such if ``argnums`` is a sequence), with the tasks in the order of
    ``jax.tree.leaves(losses)``: for a dict, sorted by key. With ``microbatches``
    ``aux`` is stacked over the parts, ``[n, ...]`` in each leaf.

  Raises:
    ValueError: if ``tasks_at_once`` or ``microbatches`` is not an integer of at least
      1; when called, if n does not divide the batch.
    TypeError: when called, if ``fun`` does not return K real losses, an argument to
      differentiate is not real floating point, or the call lacks an argument that
      ``argnums`` or ``batch_argnums`` names.

  Example:
    >>> import jax.numpy as jnp
    >>> from maxgnr_jax import value_and_task_grads
    >>> def losses(params, x):
    ...   prediction = params * x
    ...   return {"fit": (prediction - 2.0) ** 2, "size": params**2}
    >>> values, grads = value_and_task_grads(losses)(jnp.array(3.0), 1.0)
    >>> {name: float(value) for name, value in values.items()}
    {'fit': 1.0, 'size': 9.0}
    >>> grads.tolist()
    [2.0, 6.0]
    >>> def mean_losses(params, batch):
    ...   return jnp.mean((params - batch) ** 2), jnp.mean(params * batch)
    >>> in_parts = value_and_task_grads(mean_losses, microbatches=2)
    >>> in_parts(jnp.array(3.0), jnp.array([1.0, 2.0, 3.0, 4.0]))[1].tolist()
    [1.0, 2.5]
  """
  if tasks_at_once is not None:
    check_at_least_one("tasks_at_once", tasks_at_once)
  if microbatches is not None:
    check_at_least_one("microbatches", microbatches)
  several = isinstance(argnums, Sequence)

  def stack(tangents, inputs, losses):
    grads = _backward_passes(tangents, inputs, losses, tasks_at_once)
    return grads if several else grads[0]

  return differentiated(
    fun, stack, argnums, has_aux, microbatches=microbatches, batch_argnums=batch_argnums
  )


def differentiated(
  fun: Callable[..., Any],
  backward: Callable[[Callable[..., Any], Sequence[Any], Any], Any],
  argnums: int | Sequence[int],
  has_aux: bool,
  *,
  microbatches: int | None,
  batch_argnums: int | Sequence[int],
) -> Callable[..., tuple[Any, Any]]:
  """``fun`` with its gradients, which ``backward`` takes.

  Args:
    fun: As in :func:`value_and_task_grads`.
    backward: From the linear map of the arguments' tangents to those of the losses, the
      arguments and the losses to what is returned beside these.
    argnums: As in :func:`value_and_task_grads`, like all that follow.
    has_aux: Likewise.
    microbatches: Likewise.
    batch_argnums: Likewise.

  Returns:
    A function of the same arguments that returns ``(losses, grads)``, or
    ``((losses, aux), grads)``.
  """
  positions = _positions(argnums)

  @functools.wraps(fun)
  def differentiated_fun(*args, **kwargs):
    if not all(-len(args) <= p < len(args) for p in positions):
      raise TypeError(
        f"`argnums` must name positional arguments of the call, got {argnums} and "
        f"{len(args)} positional arguments. Pass what is differentiated by position."
      )

    def of_rows(*args):
      """Losses and gradients, and auxiliary data."""

      def partial(*inputs):
        full = list(args)
        for position, value in zip(positions, inputs, strict=True):
          full[position] = value
        result = fun(*full, **kwargs)
        return result if has_aux else (result, None)

      inputs = [args[position] for position in positions]
      jax.tree.map(_check_input, inputs)
      losses, tangents, aux = jax.linearize(partial, *inputs, has_aux=True)
      return (losses, backward(tangents, inputs, losses)), aux

    if microbatches is None:
      (losses, grads), aux = of_rows(*args)
    else:
      batch = _positions(batch_argnums)
      check_batch(microbatches, batch, positions, args)
      (losses, grads), aux = mean_over_microbatches(of_rows, microbatches, batch, args)
    return ((losses, aux) if has_aux else losses), grads

  return differentiated_fun


def _backward_passes(tangents, inputs, losses, tasks_at_once):
  """The stacked gradients, from the tangent map of the losses."""
  cotangents, num_tasks = _one_loss_at_a_time(losses)
  if _is_vector(losses) or tasks_at_once is not None or num_tasks > MOST_WRITTEN_OUT:
    pullback = jax.linear_transpose(tangents, *inputs)
    return for_each_task(pullback, cotangents, num_tasks, tasks_at_once)
  # The other losses are left out, not multiplied by 0: that saves the passes through
  # their heads, and what is not finite there would be NaN after the multiplication.
  leaves = jax.tree.leaves(losses)
  every = [
    jax.linear_transpose(lambda *t, k=k: jax.tree.leaves(tangents(*t))[k], *inputs)(
      jnp.ones_like(leaves[k])
    )
    for k in range(num_tasks)
  ]
  return _stacked.stack(every)


def for_each_task(
  fun: Callable[[Any], Any], stacked: Any, num_tasks: int, tasks_at_once: int | None
) -> Any:
  """``fun`` of each task's part of a stacked pytree; the results stacked."""
  if tasks_at_once is None and num_tasks <= MOST_WRITTEN_OUT:
    every = [fun(jax.tree.map(lambda x, k=k: x[k], stacked)) for k in range(num_tasks)]
    return _stacked.stack(every)
  if tasks_at_once is None or tasks_at_once >= num_tasks:
    return jax.vmap(fun)(stacked)
  batch_size = None if tasks_at_once == 1 else tasks_at_once
  return jax.lax.map(fun, stacked, batch_size=batch_size)


def task_names(losses: Any) -> list[str]:
  """The names of the tasks, in the order of weights and stacked gradients.

  Args:
    losses: K losses as :func:`value_and_task_grads` takes and returns them, or
      their shapes.

  Returns:
    The paths in the pytree, such as dict keys; the positions of a vector.

  Example:
    >>> from maxgnr_jax import task_names
    >>> task_names({"right": 0.3, "left": 1.2})
    ['left', 'right']
  """
  if _is_vector(losses):
    return [str(task) for task in range(jnp.shape(losses)[0])]
  leaves = jax.tree_util.tree_leaves_with_path(losses)
  return [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]


def _positions(argnums: int | Sequence[int]) -> tuple[int, ...]:
  numbers = argnums if isinstance(argnums, Sequence) else (argnums,)
  return tuple(operator.index(number) for number in numbers)


def _one_loss_at_a_time(losses: Any) -> tuple[Any, int]:
  """Cotangents that pick one loss each, stacked over the K losses."""
  leaves, treedef = jax.tree.flatten(losses)
  vector = _is_vector(losses)
  valid = losses.size if vector else all(jnp.ndim(leaf) == 0 for leaf in leaves)
  if not leaves or not valid:
    shapes = [jnp.shape(leaf) for leaf in leaves]
    raise TypeError(
      "`fun` must return K losses, as a vector of shape [K] or a pytree of scalars, "
      f"got {treedef} with shapes {shapes}. Reduce each task's loss to a scalar, for "
      "instance by `.mean()`; for auxiliary data besides them, pass `has_aux=True`."
    )
  for leaf in leaves:
    if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
      raise TypeError(
        f"`fun` must return real floating-point losses, got {jnp.result_type(leaf)}."
      )
  if vector:
    return jnp.eye(losses.size, dtype=losses.dtype), losses.size
  basis = jnp.eye(len(leaves))
  columns = [basis[k].astype(jnp.result_type(leaf)) for k, leaf in enumerate(leaves)]
  return jax.tree.unflatten(treedef, columns), len(leaves)


def _is_vector(losses: Any) -> bool:
  is_leaf = jax.tree_util.all_leaves([losses])
  return is_leaf and jnp.ndim(losses) == 1


def _check_input(leaf: Any) -> None:
  dtype = jnp.result_type(leaf)
  if not jnp.issubdtype(dtype, jnp.floating):
    raise TypeError(
      f"Only real floating-point arrays can be differentiated, got dtype {dtype}. "
      "Split other arrays off first: `nnx.split(model, nnx.Param, ...)`, or "
      "`argnums` for the arguments to differentiate."
    )
