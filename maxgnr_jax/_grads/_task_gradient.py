"""Stand-ins for stacked gradients, which are computed only if they are needed."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


class TaskGradient(np.lib.mixins.NDArrayOperatorsMixin):
  """One array of stacked gradients, [K, *shape], that need not exist.

  An aggregator takes the passes instead. Anything else that reads it, such as a
  transformation around the aggregator, gets the array.

  Attributes:
    passes: Backward passes through K losses.
    number: The array's place among the leaves of the gradients.
    shape: [K, *shape].
    dtype: The array's dtype.
  """

  def __init__(self, passes: Any, number: int, shape: tuple[int, ...], dtype: Any):
    self.passes, self.number = passes, number
    self.shape, self.dtype = shape, dtype
    self.ndim, self.size = len(shape), int(np.prod(shape))

  def __jax_array__(self) -> jax.Array:
    """Returns the array."""
    return jax.tree.leaves(self.passes.stacked())[self.number]

  def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any) -> Any:
    """Applies an operator to the array."""
    if method != "__call__":
      return NotImplemented
    return getattr(jnp, ufunc.__name__)(*map(jnp.asarray, inputs))

  def __getattr__(self, name: str) -> Any:
    """Returns what an array has beside operators, such as ``astype``."""
    if name.startswith("_"):
      raise AttributeError(name)
    return getattr(self.__jax_array__(), name)

  def __getitem__(self, index: Any) -> jax.Array:
    """Returns a part of the array."""
    return self.__jax_array__()[index]


def task_gradients(passes: Any, params: Any) -> Any:
  """Returns a stand-in for the stacked gradients of ``params``."""
  leaves, treedef = jax.tree.flatten(params)
  stand_ins = [
    TaskGradient(passes, n, (passes.num_tasks, *jnp.shape(p)), jnp.result_type(p))
    for n, p in enumerate(leaves)
  ]
  return jax.tree.unflatten(treedef, stand_ins)


def passes_of(grads: Any) -> Any:
  """Returns the passes that make these gradients if all of them are stand-ins."""
  leaves = jax.tree.leaves(grads)
  if not leaves or not all(isinstance(leaf, TaskGradient) for leaf in leaves):
    return None
  passes, numbers = leaves[0].passes, [leaf.number for leaf in leaves]
  whole = numbers == list(range(len(jax.tree.leaves(passes.params))))
  return passes if whole and all(x.passes is passes for x in leaves) else None


def arrays(grads: Any) -> Any:
  """Returns gradients with arrays in place of stand-ins."""
  return jax.tree.map(
    lambda g: jnp.asarray(g) if isinstance(g, TaskGradient) else g, grads
  )
