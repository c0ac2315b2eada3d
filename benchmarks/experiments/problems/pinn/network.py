"""The network, and derivatives of what it computes."""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

# From points [N, 2] to a number at each, [N].
Field = Callable[[jax.Array], jax.Array]


class Network(nnx.Module):
  """Hidden layers with tanh, from points in the plane to one number.

  Args:
    hidden: Width of the hidden layers.
    layers: Their number.
    evaluate: Takes the network's solution and points [N, P, 2], returns what the losses
      need, a dict of arrays [N].
    rngs: For the initial parameters.
  """

  def __init__(
    self,
    hidden: int,
    layers: int,
    evaluate: Callable[[Field, jax.Array], dict[str, jax.Array]],
    rngs: nnx.Rngs,
  ):
    sizes = [2, *[hidden] * layers, 1]
    make_kernel = nnx.initializers.glorot_normal()
    self.layers = nnx.List(
      nnx.Linear(a, b, kernel_init=make_kernel, rngs=rngs)
      for a, b in itertools.pairwise(sizes)
    )
    self.evaluate = evaluate

  def solution(self, points: jax.Array) -> jax.Array:
    """Computes u at points [N, 2]."""
    *hidden, last = self.layers
    for layer in hidden:
      points = jnp.tanh(layer(points))
    return last(points)[:, 0]

  def __call__(self, points: jax.Array) -> dict[str, jax.Array]:
    """Computes what the losses need of points [N, P, 2], each [N]."""
    return self.evaluate(self.solution, points)


def derivative(field: Field, axis: int) -> Field:
  """Differentiates a field along one of the two axes."""

  def differentiated(points: jax.Array) -> jax.Array:
    along = jnp.zeros_like(points).at[:, axis].set(1)
    return jax.jvp(field, (points,), (along,))[1]

  return differentiated


def second_derivative(field: Field, axis: int) -> Field:
  """Differentiates a field twice along one of the two axes."""
  return derivative(derivative(field, axis), axis)


def layers(params: nnx.State) -> Any:
  """Labels the layers of a :class:`Network`."""
  return jax.tree.map_with_path(lambda path, _: f"layer {path[1].key}", params)


def last_layer(params: nnx.State) -> Any:
  """Marks kernel and bias of the last layer, which gives u, with True."""
  last = max(params["layers"])
  return jax.tree.map_with_path(lambda path, _: path[1].key == last, params)
