"""Compiled steps for factories that are called again with other numbers."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from maxgnr_jax.aggregators._by_passes import Update

Factory = TypeVar("Factory", bound=Callable[..., Any])


def reuses_steps(factory: Factory) -> Factory:
  """Lets transformations that differ in arrays alone share what is compiled for them.

  :func:`optax.inject_hyperparams` calls the factory in every step, with the
  hyperparameters as arrays. Without ``jax.jit`` each step would be compiled as if it
  belonged to another method.

  Args:
    factory: Makes a gradient transformation.
  """
  signature = inspect.signature(factory)

  @functools.wraps(factory)
  def make(*args: Any, **kwargs: Any) -> optax.GradientTransformationExtraArgs:
    made = factory(*args, **kwargs)
    given = signature.bind(*args, **kwargs).arguments
    numbers = {name: value for name, value in given.items() if _is_known(value)}
    if not numbers:
      return made
    fixed = {name: value for name, value in given.items() if name not in numbers}
    take_step = _step_of(factory, tuple(_Same(*item) for item in fixed.items()))

    def update(grads, state, params=None, **extra_args):
      step = (grads, state, params, extra_args)
      if not all(map(_is_number, jax.tree.leaves(step))):
        return made.update(grads, state, params, **extra_args)
      return take_step(numbers, *step)

    return optax.GradientTransformationExtraArgs(
      made.init, Update(update, made.update.way)
    )

  return make  # type: ignore[return-value]


class _Same:
  """An argument, equal to another one of that name if its value is the same object."""

  def __init__(self, name: str, value: Any):
    self.name, self.value = name, value

  def __hash__(self) -> int:
    return hash(self.name)

  def __eq__(self, other: object) -> bool:
    if not isinstance(other, _Same) or self.name != other.name:
      return False
    mine, theirs = self.value, other.value
    simple = isinstance(mine, (bool, int, float, str)) and type(mine) is type(theirs)
    return mine is theirs or (simple and mine == theirs)


@functools.lru_cache(maxsize=256)
def _step_of(
  factory: Callable[..., Any], fixed: tuple[_Same, ...]
) -> Callable[..., Any]:
  """Returns a compiled update of what a factory makes of some arguments and arrays."""

  @jax.jit
  def take_step(
    numbers: Mapping[str, jax.Array],
    grads: Any,
    state: Any,
    params: Any,
    extra_args: Mapping[str, Any],
  ) -> Any:
    made = factory(**{item.name: item.value for item in fixed}, **numbers)
    return made.update(grads, state, params, **extra_args)

  return take_step


def _is_known(value: Any) -> bool:
  """Tells whether a value is an array of real numbers outside of a trace."""
  return (
    isinstance(value, jax.Array)
    and not isinstance(value, jax.core.Tracer)
    and jnp.issubdtype(value.dtype, jnp.floating)
  )


def _is_number(leaf: Any) -> bool:
  """Tells whether a function that is compiled can take a leaf."""
  return isinstance(leaf, (jax.Array, np.ndarray, np.generic, bool, int, float))
