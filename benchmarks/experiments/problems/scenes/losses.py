"""Computes each task's loss and its key performance indicator in [0, 1].

A batch holds ``image`` [N, H, W, 3], ``label`` [N, H, W] (-1: void), ``depth``
[N, H, W] (0: missing) and, where the data have them, ``normal`` [N, H, W, 3] of length
1 ((0, 0, 0): missing). All means are over the batch's labelled pixels; where there are
none they are 0, with a gradient of 0. Outputs are those of :class:`SegNet
<benchmarks.experiments.problems.scenes.segnet.SegNet>`; each function returns the tasks
that the outputs hold.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax

Arrays = Mapping[str, jax.Array]


def labelled_pixels(batch: Arrays, task: str) -> jax.Array:
  """Marks the pixels that have a target for the task, [N, H, W], bool."""
  if task == "segmentation":
    return batch["label"] >= 0
  return batch["depth"] != 0 if task == "depth" else jnp.any(batch["normal"] != 0, -1)


def losses(outputs: Arrays, batch: Arrays) -> dict[str, jax.Array]:
  """Computes cross-entropy, absolute error of the depth, and 1 - cosine of normals."""
  return _by_task(_LOSSES, outputs, batch)


def kpis(outputs: Arrays, batch: Arrays) -> dict[str, jax.Array]:
  """Computes how well each task does, in [0, 1], which DTP needs.

  Segmentation: pixel accuracy. Depth: 1 - (sum of absolute errors) / (sum of depths),
  not below 0. Normals: share within 30°.
  """
  return _by_task(_KPIS, outputs, batch)


def _cross_entropy(logits: jax.Array, batch: Arrays) -> jax.Array:
  labelled = labelled_pixels(batch, "segmentation")
  label = jnp.where(labelled, batch["label"], 0)
  value = optax.softmax_cross_entropy_with_integer_labels(logits, label)
  return _mean(value, labelled)


def _accuracy(logits: jax.Array, batch: Arrays) -> jax.Array:
  labelled = labelled_pixels(batch, "segmentation")
  return _mean(logits.argmax(-1) == batch["label"], labelled)


def _absolute_error(depth: jax.Array, batch: Arrays) -> jax.Array:
  return _mean(jnp.abs(depth - batch["depth"]), labelled_pixels(batch, "depth"))


def _explained_depth(depth: jax.Array, batch: Arrays) -> jax.Array:
  labelled = labelled_pixels(batch, "depth")
  size = _mean(jnp.abs(batch["depth"]), labelled)
  explained = size - _absolute_error(depth, batch)
  return jnp.clip(explained / jnp.where(size > 0, size, 1), 0, 1)


def _cosine(normal: jax.Array, batch: Arrays) -> jax.Array:
  return jnp.sum(normal * batch["normal"], -1)


def _one_minus_cosine(normal: jax.Array, batch: Arrays) -> jax.Array:
  return _mean(1 - _cosine(normal, batch), labelled_pixels(batch, "normal"))


def _within_30_degrees(normal: jax.Array, batch: Arrays) -> jax.Array:
  near = _cosine(normal, batch) > 0.75**0.5
  return _mean(near, labelled_pixels(batch, "normal"))


def _mean(values: jax.Array, labelled: jax.Array) -> jax.Array:
  # Chosen, not multiplied by 0: what is left out may be anything.
  total = jnp.where(labelled, values.astype(jnp.float32), 0).sum()
  return total / jnp.maximum(labelled.sum(), 1).astype(jnp.float32)


_Measure = Callable[[jax.Array, Arrays], jax.Array]
_LOSSES: dict[str, _Measure] = {
  "depth": _absolute_error,
  "normal": _one_minus_cosine,
  "segmentation": _cross_entropy,
}
_KPIS: dict[str, _Measure] = {
  "depth": _explained_depth,
  "normal": _within_30_degrees,
  "segmentation": _accuracy,
}


def _by_task(
  measures: dict[str, _Measure], outputs: Arrays, batch: Arrays
) -> dict[str, jax.Array]:
  return {task: measures[task](outputs[task], batch) for task in sorted(outputs)}
