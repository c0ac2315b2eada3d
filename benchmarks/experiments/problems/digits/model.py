"""The network and its four tasks."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from benchmarks.experiments.mlp import MLP
from benchmarks.experiments.problems.digits.data import PIXELS, Batch

HIDDEN = 64


class Task(NamedTuple):
  """What the table says of a task.

  Attributes:
    metric: Name of its metric.
    sign: 1 if larger is better, -1 if smaller is.
  """

  metric: str
  sign: int


# Sorted, as the leaves of a dict of losses are.
TASKS = {
  "canvas": Task("RMSE", -1),
  "ink": Task("RMSE", -1),
  "left": Task("accuracy", 1),
  "right": Task("accuracy", 1),
}


def make_network(rngs: nnx.Rngs) -> MLP:
  """A trunk that all tasks share, and one linear head per task."""
  heads = {"canvas": PIXELS, "ink": 1, "left": 10, "right": 10}
  return MLP(PIXELS, HIDDEN, heads, rngs)


def trunk_layers(params: nnx.State) -> nnx.State:
  """The trunk's layers as groups; the heads go with the last one."""

  def label(path, _):
    in_first = path[0].key == "trunk" and path[2].key == 0
    return "first layer" if in_first else "last layer"

  return jax.tree.map_with_path(label, params)


def losses(outputs: dict[str, jax.Array], batch: Batch) -> dict[str, jax.Array]:
  """The loss of each task: cross-entropy, or mean squared error."""
  cross_entropy = optax.softmax_cross_entropy_with_integer_labels
  return {
    "canvas": jnp.mean((outputs["canvas"] - batch.canvas) ** 2),
    "ink": jnp.mean((outputs["ink"][:, 0] - batch.ink) ** 2),
    "left": cross_entropy(outputs["left"], batch.left).mean(),
    "right": cross_entropy(outputs["right"], batch.right).mean(),
  }


def kpis(outputs: dict[str, jax.Array], batch: Batch) -> dict[str, jax.Array]:
  """How well each task does, in [0, 1]: its accuracy, or the R² of a regression."""

  def explained(output, target):
    error = jnp.mean((output - target) ** 2)
    return jnp.clip(1 - error / jnp.mean(jnp.var(target, axis=0)), 0, 1)

  return {
    "canvas": explained(outputs["canvas"], batch.canvas),
    "ink": explained(outputs["ink"][:, 0], batch.ink),
    "left": jnp.mean(outputs["left"].argmax(1) == batch.left),
    "right": jnp.mean(outputs["right"].argmax(1) == batch.right),
  }


def metrics(outputs: dict[str, jax.Array], batch: Batch) -> jax.Array:
  """The metric of each task, [4], in the order of ``TASKS``; accuracy in percent."""
  loss = losses(outputs, batch)
  return jnp.stack(
    [
      jnp.sqrt(loss["canvas"]),
      jnp.sqrt(loss["ink"]),
      100 * jnp.mean(outputs["left"].argmax(1) == batch.left),
      100 * jnp.mean(outputs["right"].argmax(1) == batch.right),
    ]
  )
