"""Networks of usual kinds, each with a shared trunk and a head per task."""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

PIXELS = 16
VOCABULARY, LENGTH = 1000, 8
MLP_INPUTS = 256


class MLP(nnx.Module):
  """Dense layers."""

  def __init__(self, rngs: nnx.Rngs, sizes: tuple[int, ...] = (1024, 1024, 256)):
    sizes = (MLP_INPUTS, *sizes)
    self.layers = nnx.List(
      nnx.Linear(rows, columns, rngs=rngs)
      for rows, columns in itertools.pairwise(sizes)
    )
    self.features = sizes[-1]

  def __call__(self, inputs: jax.Array) -> jax.Array:
    """From [N, MLP_INPUTS] to [N, features]."""
    for layer in self.layers:
      inputs = nnx.relu(layer(inputs))
    return inputs


class ConvNet(nnx.Module):
  """Convolutions that halve the image, and a dense layer."""

  def __init__(self, rngs: nnx.Rngs):
    channels = (3, 32, 64, 128)
    self.layers = nnx.List(
      nnx.Conv(before, after, (3, 3), strides=2, rngs=rngs)
      for before, after in itertools.pairwise(channels)
    )
    left = (PIXELS // 2 ** len(self.layers)) ** 2 * channels[-1]
    self.dense = nnx.Linear(left, 1024, rngs=rngs)
    self.features = 1024

  def __call__(self, images: jax.Array) -> jax.Array:
    """From [N, PIXELS, PIXELS, 3] to [N, features]."""
    for layer in self.layers:
      images = nnx.relu(layer(images))
    return nnx.relu(self.dense(images.reshape(len(images), -1)))


class Block(nnx.Module):
  """Attention and two dense layers, each with a residual connection."""

  def __init__(self, width: int, rngs: nnx.Rngs):
    self.norms = nnx.List(nnx.LayerNorm(width, rngs=rngs) for _ in range(2))
    self.attention = nnx.MultiHeadAttention(4, width, decode=False, rngs=rngs)
    self.dense = nnx.Sequential(
      nnx.Linear(width, 4 * width, rngs=rngs),
      nnx.gelu,
      nnx.Linear(4 * width, width, rngs=rngs),
    )

  def __call__(self, tokens: jax.Array) -> jax.Array:
    """From [N, LENGTH, width] to the same."""
    tokens = tokens + self.attention(self.norms[0](tokens))
    return tokens + self.dense(self.norms[1](tokens))


class Transformer(nnx.Module):
  """A transformer encoder whose output is averaged over the words."""

  def __init__(self, rngs: nnx.Rngs):
    self.features = 128
    self.words = nnx.Embed(VOCABULARY, self.features, rngs=rngs)
    self.positions = nnx.Embed(LENGTH, self.features, rngs=rngs)
    self.blocks = nnx.List(Block(self.features, rngs) for _ in range(2))
    self.norm = nnx.LayerNorm(self.features, rngs=rngs)

  def __call__(self, words: jax.Array) -> jax.Array:
    """From integers [N, LENGTH] to [N, features]."""
    tokens = self.words(words) + self.positions(jnp.arange(LENGTH))[None]
    for block in self.blocks:
      tokens = block(tokens)
    return self.norm(tokens).mean(1)


class Trunk(NamedTuple):
  """A kind of network.

  Attributes:
    make: From random keys to the module.
    inputs: From a generator and the batch size to random inputs.
  """

  make: Callable[[nnx.Rngs], nnx.Module]
  inputs: Callable[[np.random.Generator, int], np.ndarray]


TRUNKS = {
  "MLP": Trunk(MLP, lambda rng, n: _normal(rng, n, MLP_INPUTS)),
  "convolutional": Trunk(ConvNet, lambda rng, n: _normal(rng, n, PIXELS, PIXELS, 3)),
  "deep MLP": Trunk(
    lambda rngs: MLP(rngs, (1024,) * 12), lambda rng, n: _normal(rng, n, MLP_INPUTS)
  ),
  "transformer": Trunk(
    Transformer, lambda rng, n: rng.integers(VOCABULARY, size=(n, LENGTH))
  ),
}


# Those that whole train steps are timed with.
USUAL = ("MLP", "convolutional", "transformer")
# Path of the bias of the last layer that the tasks share.
LAST_BIAS = {
  "MLP": "trunk/layers/2/bias/value",
  "convolutional": "trunk/dense/bias/value",
  "transformer": "trunk/norm/bias/value",
  "deep MLP": "trunk/layers/11/bias/value",
}


class Kind(NamedTuple):
  """A kind of task.

  Attributes:
    outputs: Outputs of its head.
    loss: From outputs [N, outputs] and targets to a scalar.
    targets: From a generator and the batch size to random targets.
  """

  outputs: int
  loss: Callable[[jax.Array, jax.Array], jax.Array]
  targets: Callable[[np.random.Generator, int], np.ndarray]


def _one_class(outputs: jax.Array, targets: jax.Array) -> jax.Array:
  return optax.softmax_cross_entropy_with_integer_labels(outputs, targets).mean()


def _regression(outputs: jax.Array, targets: jax.Array) -> jax.Array:
  return jnp.mean((outputs - targets) ** 2)


def _several_classes(outputs: jax.Array, targets: jax.Array) -> jax.Array:
  return optax.sigmoid_binary_cross_entropy(outputs, targets).mean()


# Task k is of kind k, counted round and round.
KINDS = (
  Kind(10, _one_class, lambda rng, n: rng.integers(10, size=n)),
  Kind(4, _regression, lambda rng, n: _normal(rng, n, 4)),
  Kind(20, _several_classes, lambda rng, n: _bits(rng, n, 20)),
)


class Network(nnx.Module):
  """A trunk that all tasks share, and one linear head per task."""

  def __init__(self, trunk: Any, kinds: list[Kind], rngs: nnx.Rngs):
    self.trunk = trunk
    self.heads = nnx.List(
      nnx.Linear(trunk.features, kind.outputs, rngs=rngs) for kind in kinds
    )

  def __call__(self, inputs: jax.Array) -> list[jax.Array]:
    """Each task's output [N, outputs]."""
    features = self.trunk(inputs)
    return [head(features) for head in self.heads]


class Problem(NamedTuple):
  """The model, the losses and the batch of a train step.

  Attributes:
    losses: From parameters and batch to the K losses, a list of scalars.
    params: Before the first step.
    batch: Inputs, and the targets of each task.
  """

  losses: Callable[[Any, Any], list[jax.Array]]
  params: Any
  batch: Any

  def num_tasks(self) -> int:
    """K."""
    return len(self.batch[1])

  def own_params(self) -> Any:
    """Copies the parameters, because each run donates its own."""
    return jax.tree.map(jnp.copy, self.params)

  def largest_layer(self) -> int:
    """The size of the largest array of parameters."""
    return max(leaf.size for leaf in jax.tree.leaves(self.params))

  def num_parameters(self) -> int:
    """D."""
    return sum(leaf.size for leaf in jax.tree.leaves(self.params))


def make_problem(trunk: str, tasks: int, batch_size: int) -> Problem:
  """Makes a problem from one of ``TRUNKS``, with a batch of random numbers."""
  kinds = [KINDS[k % len(KINDS)] for k in range(tasks)]
  rngs, rng = nnx.Rngs(0), np.random.default_rng(0)
  network = Network(TRUNKS[trunk].make(rngs), kinds, rngs)
  graphdef, params = nnx.split(network, nnx.Param)

  def losses(params, batch):
    inputs, targets = batch
    outputs = nnx.merge(graphdef, params)(inputs)
    every = zip(kinds, outputs, targets, strict=True)
    return [kind.loss(output, target) for kind, output, target in every]

  inputs = TRUNKS[trunk].inputs(rng, batch_size)
  targets = [kind.targets(rng, batch_size) for kind in kinds]
  return Problem(losses, params, jax.tree.map(jnp.asarray, (inputs, targets)))


def _normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
  return rng.standard_normal(shape, np.float32)


def _bits(rng: np.random.Generator, *shape: int) -> np.ndarray:
  return (rng.random(shape) < 0.2).astype(np.float32)
