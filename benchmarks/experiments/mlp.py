"""A small network with one trunk and a linear head per task."""

from collections.abc import Mapping

import jax
from flax import nnx


class MLP(nnx.Module):
  """Two hidden layers that all tasks share, and one linear head per task.

  Args:
    inputs: Numbers per example.
    hidden: Width of both layers.
    heads: Task -> outputs of its head.
    rngs: For the initial parameters.
  """

  def __init__(
    self, inputs: int, hidden: int, heads: Mapping[str, int], rngs: nnx.Rngs
  ):
    self.trunk = nnx.Sequential(
      nnx.Linear(inputs, hidden, rngs=rngs),
      nnx.relu,
      nnx.Linear(hidden, hidden, rngs=rngs),
      nnx.relu,
    )
    self.heads = nnx.Dict(
      {task: nnx.Linear(hidden, size, rngs=rngs) for task, size in heads.items()}
    )

  def __call__(self, x: jax.Array) -> dict[str, jax.Array]:
    """Computes each task's output for examples [N, inputs]."""
    features = self.trunk(x)
    return {task: head(features) for task, head in self.heads.items()}


def trunk_only(params: nnx.State) -> nnx.State:
  """Marks the parameters of the trunk, whose gradients MaxGNR measures, with True."""
  return jax.tree.map_with_path(lambda path, _: path[0].key == "trunk", params)


def layers(params: nnx.State) -> nnx.State:
  """Labels the hidden layers of an :class:`MLP`; the heads go with the last one."""

  def label(path, _):
    in_first = path[0].key == "trunk" and path[2].key == 0
    return "first layer" if in_first else "last layer"

  return jax.tree.map_with_path(label, params)


def last_layer(params: nnx.State) -> nnx.State:
  """Marks kernel and bias of the last layer that all tasks share with True."""
  return jax.tree.map_with_path(lambda path, _: _in_last_layer(path), params)


def last_bias(params: nnx.State) -> nnx.State:
  """Marks the bias of the last layer that all tasks share with True."""

  def is_last_bias(path, _):
    return _in_last_layer(path) and path[3].key == "bias"

  return jax.tree.map_with_path(is_last_bias, params)


def _in_last_layer(path) -> bool:
  return path[0].key == "trunk" and path[2].key == 2
