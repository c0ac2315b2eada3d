"""Computes the metrics of the tables over all labelled pixels of a set of images.

Sums over a batch are taken on the device (:func:`sums`), and added up over the set on
the host; :func:`summarise` makes metrics of them. The result does not
depend on how the set is cut into batches.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.experiments.metric import Metric
from benchmarks.experiments.problems.scenes.losses import Arrays, labelled_pixels

# In the order of the published tables.
METRICS = (
  Metric("miou", "segmentation", "mIoU %", 1, 2),
  Metric("pixel_accuracy", "segmentation", "pixel accuracy %", 1, 2),
  Metric("depth_abs_err", "depth", "abs. error", -1, 4),
  Metric("depth_rel_err", "depth", "rel. error %", -1, 2),
  Metric("normal_mean", "normal", "mean °", -1, 2),
  Metric("normal_median", "normal", "median °", -1, 2),
  Metric(
    "within_11.25", "normal", "within 11.25° %", 1, 2, in_delta_m=False, shown=False
  ),
  Metric(
    "within_22.5", "normal", "within 22.5° %", 1, 2, in_delta_m=False, shown=False
  ),
  Metric("within_30", "normal", "within 30° %", 1, 2, in_delta_m=False, shown=False),
)
# Bins of the histogram of angles; 180° has a bin of its own.
BINS_PER_DEGREE = 100
BINS = 180 * BINS_PER_DEGREE + 1


def sums(outputs: Arrays, batch: Arrays) -> dict[str, jax.Array]:
  """Computes sums to be added up over batches, for the tasks in ``outputs``.

  Args:
    outputs: Outputs of a
      :class:`SegNet <benchmarks.experiments.problems.scenes.segnet.SegNet>`.
    batch: See :mod:`benchmarks.experiments.problems.scenes.losses`.

  Returns:
    ``confusion`` [C, C], pixels by true and predicted class; ``depth_pixels``, and the
    sums of ``depth_abs_err`` and ``depth_rel_err``; the sum of ``angle`` in degrees and
    the histogram ``angles`` [BINS]. Pixels are counted in int32, errors summed in
    float32.
  """
  values: dict[str, jax.Array] = {}
  if "segmentation" in outputs:
    logits = outputs["segmentation"]
    classes = logits.shape[-1]
    labelled = labelled_pixels(batch, "segmentation")
    pair = batch["label"] * classes + logits.argmax(-1).astype(jnp.int32)
    confusion = _count(pair, labelled, classes**2)
    values["confusion"] = confusion.reshape(classes, classes)
  if "depth" in outputs:
    labelled = labelled_pixels(batch, "depth")
    error = jnp.where(labelled, jnp.abs(outputs["depth"] - batch["depth"]), 0)
    values["depth_pixels"] = labelled.sum()
    values["depth_abs_err"] = error.sum()
    relative = error / jnp.where(labelled, jnp.abs(batch["depth"]), 1)
    values["depth_rel_err"] = relative.sum()
  if "normal" in outputs:
    labelled = labelled_pixels(batch, "normal")
    angle = angles(outputs["normal"], batch["normal"])
    values["angle"] = jnp.where(labelled, angle, 0).sum()
    # What is not a number must not count as near.
    bins = BINS_PER_DEGREE * jnp.where(jnp.isnan(angle), 180, angle)
    values["angles"] = _count(bins.astype(jnp.int32), labelled, BINS)
  return values


def angles(first: jax.Array, second: jax.Array) -> jax.Array:
  """Computes degrees [...] between unit vectors [..., 3]; 90 from a vector of zeros.

  The arc cosine of their product would be wrong by 0.03° at small angles in float32.
  """
  far = jnp.linalg.norm(first - second, axis=-1)
  return jnp.degrees(2 * jnp.arctan2(far, jnp.linalg.norm(first + second, axis=-1)))


def _count(bins: jax.Array, labelled: jax.Array, number: int) -> jax.Array:
  """Counts the labelled pixels in each bin, [number], int32."""
  # Void pixels go to a bin that is thrown away.
  bins = jnp.where(labelled, jnp.clip(bins, 0, number - 1), number)
  return jnp.bincount(bins.ravel(), length=number + 1)[:number].astype(jnp.int32)


def summarise(total: Mapping[str, np.ndarray]) -> dict[str, float]:
  """Computes the metrics of ``METRICS`` whose tasks have been summed.

  ``miou`` is the mean of intersection over union over the classes that occur in truth
  or prediction, at labelled pixels; a class that occurs in neither is left out.
  ``normal_median`` is exact to half a bin, 0.005°. Without a labelled pixel a metric is
  NaN. Of predictions that are not finite errors are not, either, but the shares and the
  median count them as wrong.
  """
  values: dict[str, float] = {}
  if "confusion" in total:
    confusion = total["confusion"]
    hits = confusion.diagonal()
    union = confusion.sum(0) + confusion.sum(1) - hits
    occurs = union > 0
    values["miou"] = 100 * _ratio((hits[occurs] / union[occurs]).sum(), occurs.sum())
    values["pixel_accuracy"] = 100 * _ratio(hits.sum(), confusion.sum())
  if "depth_pixels" in total:
    pixels = total["depth_pixels"]
    values["depth_abs_err"] = _ratio(total["depth_abs_err"], pixels)
    values["depth_rel_err"] = 100 * _ratio(total["depth_rel_err"], pixels)
  if "angles" in total:
    histogram = total["angles"]
    pixels = histogram.sum()
    values["normal_mean"] = _ratio(total["angle"], pixels)
    values["normal_median"] = _median(histogram)
    for degrees in (11.25, 22.5, 30):
      within = histogram[: int(degrees * BINS_PER_DEGREE)].sum()
      values[f"within_{degrees:g}"] = 100 * _ratio(within, pixels)
  return values


def _ratio(part: np.ndarray, whole: np.ndarray) -> float:
  return float(part / whole) if whole > 0 else float("nan")


def _median(histogram: np.ndarray) -> float:
  pixels = histogram.sum()
  if pixels == 0:
    return float("nan")
  # The one in the middle, or the mean of the two.
  middle = [(pixels - 1) // 2, pixels // 2]
  bins = np.searchsorted(histogram.cumsum(), middle, side="right")
  return float(np.minimum((bins + 0.5) / BINS_PER_DEGREE, 180).mean())
