"""Stacked gradients of the losses of several tasks."""

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp

from maxgnr_jax import _stacked
from maxgnr_jax._checks import check_at_least_one
from maxgnr_jax._grads._microbatches import check_batch, mean_over_microbatches
from maxgnr_jax._grads._staging import is_staged
from maxgnr_jax._task_names import from_order, in_order, is_vector

# Up to this many backward passes are written out; each adds to the compilation time.
MOST_WRITTEN_OUT = 16

Arguments = ParamSpec("Arguments")
Losses = TypeVar("Losses")  # with auxiliary data, if there are any


def value_and_task_grads(
  fun: Callable[Arguments, Losses],
  argnums: int | Sequence[int] = 0,
  has_aux: bool = False,
  *,
  tasks_at_once: int | None = None,
  microbatches: int | None = None,
  batch_argnums: int | Sequence[int] = 1,
) -> Callable[Arguments, tuple[Losses, Any]]:
  """Differentiates K losses, as :func:`jax.value_and_grad` differentiates one.

  This takes one forward pass and K backward passes over the whole batch or, with
  ``microbatches``, over one part of it after the other.

  Without :func:`jax.jit`, tasks and microbatches are taken in loops of Python, and no
  call compiles what an earlier one did. Only :func:`jax.lax.scan`, ``cond`` and the
  like in ``fun`` itself compile at each call, as they do under :func:`jax.grad`: put
  them in a function under :func:`jax.jit`.

  If a loss is not finite, the other tasks' gradients still are, provided that the
  backward passes are written out (see ``tasks_at_once``) and ``fun`` returns scalars.
  If it returns a vector, or if passes run side by side or in a loop, each pass
  multiplies the other losses' derivatives by 0, and 0 times NaN is NaN.

  Args:
    fun: Function that returns the K losses: a vector [K], or a pytree of scalars
      such as a dict, the keys of which name the tasks (see :func:`task_names`). With
      ``has_aux`` a pair of the losses and auxiliary data.
    argnums: Which positional argument(s) to differentiate with respect to.
    has_aux: Whether ``fun`` returns auxiliary data besides the losses.
    tasks_at_once: How many backward passes run side by side under :func:`jax.vmap`,
      at least 1; with 1 they run one after another in a loop. Default: all K are
      written out one after another for up to 16 tasks, and run side by side for more.
      In benchmarks on a CPU (``benchmarks/results/speed-ways``) the default took at
      most 1.3 times as long as the fastest: ``vmap`` leaves gradients in a layout that
      is slow to read, and convolutions are slow in a loop. A loop mostly compiles
      faster, and needs the least memory.
    microbatches: n, at least 1: the batch is taken in n equal parts, one after the
      other, so that memory holds the activations of one part only. Losses and gradients
      are averaged over the parts, in float32 at least. They equal those of the whole
      batch if each loss is a mean over the rows and no layer mixes rows, as batch
      normalisation does. Default: the whole batch at once.
    batch_argnums: With ``microbatches``, which positional argument(s) hold the batch:
      pytrees of arrays with the rows on axis 0, which must be divisible by n. Part i
      holds the rows i, i + n, i + 2 n and so on. All other arguments are the same for
      every part, including a PRNG key. For a different key in each part pass
      ``jax.random.split(key, n)`` and name it here: each part then gets one key, of
      shape [1].

  Returns:
    A function of the same arguments that returns ``(losses, grads)``, or
    ``((losses, aux), grads)`` with ``has_aux``. ``losses`` is what ``fun`` returned.
    ``grads`` has the structure of the argument and ``[K, *shape]`` in each leaf; it is
    a tuple of such pytrees if ``argnums`` is a sequence. Tasks are stacked in the order
    of their sorted names (see :func:`task_names`), whatever container holds the losses;
    those of a vector, a tuple or a list keep their order. With ``microbatches`` ``aux``
    is stacked over the parts, ``[n, ...]`` in each leaf.

  Raises:
    ValueError: if ``tasks_at_once`` or ``microbatches`` is not an integer of at least
      1; when called, if n does not divide the batch.
    TypeError: when called, if ``fun`` does not return K real floating-point losses, if
      an argument to differentiate is not real floating point, or if ``argnums`` or
      ``batch_argnums`` names no argument of the call, or both name the same.

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

  def backward(tangents, inputs, losses):
    grads = backward_passes(tangents, inputs, losses, tasks_at_once)
    return grads if isinstance(argnums, Sequence) else grads[0]

  return differentiated(
    fun,
    backward,
    argnums,
    has_aux,
    microbatches=microbatches,
    batch_argnums=batch_argnums,
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
  """Makes a function that returns losses and what ``backward`` computes from them.

  Arguments not described here are as in :func:`value_and_task_grads`.

  Args:
    fun: Function that returns the K losses.
    backward: Takes the backward passes. A function of three arguments: the linear map
      from tangents of the differentiated arguments to tangents of the losses, a list of
      these arguments, and the losses. It returns gradients.
    argnums: Which positional argument(s) to differentiate with respect to.
    has_aux: Whether ``fun`` returns auxiliary data besides the losses.
    microbatches: Number of parts in which to take the batch, or None.
    batch_argnums: Which positional argument(s) hold the batch.

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
        f"{len(args)} positional arguments. Pass the arguments to differentiate by "
        "position, not by keyword."
      )

    def losses_and_grads(*args):
      """Returns ``(losses, grads)``, which are averaged over microbatches, and aux."""

      def partial(*inputs):
        full = list(args)
        for position, value in zip(positions, inputs, strict=True):
          full[position] = value
        result = fun(*full, **kwargs)
        result = result if has_aux else (result, None)
        if isinstance(result, (tuple, list)) and len(result) == 2:  # else JAX raises
          _check_losses(result[0])
        return result

      inputs = [args[position] for position in positions]
      _check_inputs(inputs)
      losses, tangents, aux = jax.linearize(partial, *inputs, has_aux=True)
      return (losses, backward(tangents, inputs, losses)), aux

    if microbatches is None:
      (losses, grads), aux = losses_and_grads(*args)
    else:
      batch = _positions(batch_argnums)
      check_batch(microbatches, batch, positions, args)
      (losses, grads), aux = mean_over_microbatches(
        losses_and_grads, microbatches, batch, args
      )
    return ((losses, aux) if has_aux else losses), grads

  return differentiated_fun


def backward_passes(tangents, inputs, losses, tasks_at_once):
  """Takes the K backward passes and stacks their gradients.

  Args:
    tangents: Linear map from tangents of the inputs to tangents of the losses.
    inputs: The arguments that are differentiated.
    losses: The K losses.
    tasks_at_once: As in :func:`value_and_task_grads`.

  Returns:
    A list with a stacked pytree for each of the inputs.
  """
  cotangents, num_tasks = one_loss_at_a_time(losses)
  if is_vector(losses) or tasks_at_once is not None or num_tasks > MOST_WRITTEN_OUT:
    pullback = jax.linear_transpose(tangents, *inputs)
    return for_each_task(pullback, cotangents, num_tasks, tasks_at_once)
  # Each pass transposes the map to one loss, instead of starting from 0 for the others.
  # That saves the passes through the other heads, where 0 times NaN would be NaN.
  grads = [
    jax.linear_transpose(lambda *t, k=k: in_order(tangents(*t))[k], *inputs)(
      jnp.ones_like(loss)
    )
    for k, loss in enumerate(in_order(losses))
  ]
  return _stacked.stack(grads)


def for_each_task(
  fun: Callable[[Any], Any], stacked: Any, num_tasks: int, tasks_at_once: int | None
) -> Any:
  """Calls ``fun`` with each task's part of a stacked pytree and stacks the results.

  Args:
    fun: From one task's part to a pytree.
    stacked: Stacked pytree.
    num_tasks: K.
    tasks_at_once: As in :func:`value_and_task_grads`.
  """
  written_out = tasks_at_once is None and num_tasks <= MOST_WRITTEN_OUT
  if written_out or (tasks_at_once == 1 and not is_staged()):
    parts = (jax.tree.map(lambda x, k=k: x[k], stacked) for k in range(num_tasks))
    return _stacked.stack([fun(part) for part in parts])
  if tasks_at_once is None or tasks_at_once >= num_tasks:
    return jax.vmap(fun)(stacked)
  if is_staged():
    batch_size = None if tasks_at_once == 1 else tasks_at_once
    return jax.lax.map(fun, stacked, batch_size=batch_size)
  results = [
    jax.vmap(fun)(jax.tree.map(lambda x, k=k: x[k : k + tasks_at_once], stacked))
    for k in range(0, num_tasks, tasks_at_once)
  ]
  return jax.tree.map(lambda *parts: jnp.concatenate(parts), *results)


def _positions(argnums: int | Sequence[int]) -> tuple[int, ...]:
  """Returns one or several argument numbers as a tuple."""
  numbers = argnums if isinstance(argnums, Sequence) else (argnums,)
  return tuple(operator.index(number) for number in numbers)


def one_loss_at_a_time(losses: Any) -> tuple[Any, int]:
  """Returns K stacked cotangents, each of which is 1 for one loss, and K."""
  num_tasks = count_losses(losses)
  if is_vector(losses):
    return jnp.eye(num_tasks, dtype=losses.dtype), num_tasks
  basis = jnp.eye(num_tasks)
  columns = [
    basis[k].astype(jnp.result_type(loss)) for k, loss in enumerate(in_order(losses))
  ]
  return from_order(columns, losses), num_tasks


def count_losses(losses: Any) -> int:
  """Returns K.

  Raises:
    TypeError: if ``losses`` are not K losses.
  """
  leaves: list[Any] = jax.tree.leaves(losses)
  vector = is_vector(losses)
  valid = losses.size if vector else all(jnp.ndim(leaf) == 0 for leaf in leaves)
  if not leaves or not valid:
    shapes = [jnp.shape(leaf) for leaf in leaves]
    raise TypeError(
      "`fun` must return K losses, as a vector of shape [K] or a pytree of scalars, "
      f"got {jax.tree.structure(losses)} with shapes {shapes}. Reduce each task's loss "
      "to a scalar, for instance with `.mean()`. If `fun` also returns auxiliary data, "
      "pass `has_aux=True`."
    )
  return losses.size if vector else len(leaves)


def _check_inputs(inputs: Any) -> None:
  """Raises unless the losses can be differentiated with respect to ``inputs``."""
  if wrong := _stacked.first_not_floating(inputs):
    place, kind = wrong
    raise TypeError(
      f"Only real floating-point arrays can be differentiated, got {kind} in {place} "
      "of the differentiated arguments. Split everything else off first, with "
      "`nnx.split(model, nnx.Param, ...)` or `equinox.partition(model, "
      "equinox.is_inexact_array)`, or name other arguments in `argnums`."
    )


def _check_losses(losses: Any) -> None:
  """Raises unless every loss is real floating point."""
  if wrong := _stacked.first_not_floating(losses):
    place, kind = wrong
    raise TypeError(
      f"`fun` must return real floating-point losses, got {kind} in {place}. Convert "
      "numbers with `.astype(jnp.float32)`, return other arrays as auxiliary data "
      "(`has_aux=True`), and leave functions and strings out."
    )
