"""SegNet with a head per task: Liu, Johns, Davison (2019), "split, standard"."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from benchmarks.experiments.problems.scenes.pooling import max_pool, max_unpool

FILTERS = (64, 128, 256, 512, 512)
# Untruncated, as PyTorch's `xavier_normal_` is and JAX's `glorot_normal` is not.
XAVIER_NORMAL = nnx.initializers.variance_scaling(1.0, "fan_avg", "normal")


def conv(inputs: int, outputs: int, size: int, rngs: nnx.Rngs) -> nnx.Conv:
  """Makes a convolution of size x size pixels that keeps height and width."""
  return nnx.Conv(inputs, outputs, (size, size), kernel_init=XAVIER_NORMAL, rngs=rngs)


def stage(index: int, inputs: int, outputs: int, rngs: nnx.Rngs) -> nnx.Sequential:
  """Makes two layers of convolution, batch norm and ReLU; three from stage 2 on."""
  layers: list = []
  for _ in range(2 if index < 2 else 3):
    # PyTorch's momentum of 0.1, which is that of the new value.
    norm = nnx.BatchNorm(outputs, momentum=0.9, epsilon=1e-5, rngs=rngs)
    layers += [conv(inputs, outputs, 3, rngs), norm, nnx.relu]
    inputs = outputs
  return nnx.Sequential(*layers)


class Trunk(nnx.Module):
  """Encoder and decoder: stages with a pooling, and as many with an unpooling."""

  def __init__(self, filters: Sequence[int], rngs: nnx.Rngs):
    self.encoder = nnx.List(
      stage(i, inputs, outputs, rngs)
      for i, (inputs, outputs) in enumerate(zip((3, *filters), filters, strict=False))
    )
    self.decoder = nnx.List(
      stage(i, filters[i], filters[max(i - 1, 0)], rngs)
      for i in reversed(range(len(filters)))
    )

  def __call__(self, image: jax.Array) -> jax.Array:
    """Computes features [N, H, W, filters[0]] of images [N, H, W, 3]."""
    features, masks = image, []
    for encode in self.encoder:
      features, mask = max_pool(encode(features))
      masks.append(mask)
    for decode, mask in zip(self.decoder, reversed(masks), strict=True):
      features = decode(max_unpool(features, mask))
    return features


class SegNet(nnx.Module):
  """A trunk that all tasks share, and two convolutions per task.

  ``model.train()`` and ``model.eval()`` say whether batches are normalised by their
  own statistics, which moves the running ones, or by the running ones. As in Flax, and
  unlike PyTorch, the running variance is that of the batch without Bessel's correction.

  Args:
    num_classes: C of the segmentation.
    tasks: Some of "depth", "normal" and "segmentation".
    filters: Channels of each stage; at least one stage.
    rngs: For the initial parameters.

  Raises:
    ValueError: if there is no such task.
  """

  def __init__(
    self,
    num_classes: int,
    tasks: Sequence[str],
    filters: Sequence[int] = FILTERS,
    *,
    rngs: nnx.Rngs,
  ):
    channels = {"depth": 1, "normal": 3, "segmentation": num_classes}
    unknown = sorted(set(tasks) - set(channels))
    if unknown:
      raise ValueError(f"`tasks` must be among {list(channels)}, got {unknown}")
    self.trunk = Trunk(filters, rngs)
    self.heads = nnx.Dict(
      {
        task: nnx.Sequential(
          conv(filters[0], filters[0], 3, rngs), conv(filters[0], outputs, 1, rngs)
        )
        for task, outputs in channels.items()
        if task in tasks
      }
    )

  def __call__(self, image: jax.Array) -> dict[str, jax.Array]:
    """Computes each task's output for images [N, H, W, 3].

    Returns:
      A dict with those of "depth" [N, H, W], "normal" [N, H, W, 3] of length 1, and
      "segmentation" [N, H, W, C], logits, that are tasks of the model.

    Raises:
      ValueError: if H or W is not divisible by 2 ** number of stages.
    """
    _, height, width, _ = image.shape
    factor = 2 ** len(self.trunk.encoder)
    if height % factor or width % factor:
      raise ValueError(
        f"height and width must be divisible by {factor}, as {len(self.trunk.encoder)} "
        f"stages halve them, got {height} x {width}: resize or pad the images"
      )
    features = self.trunk(image)
    outputs = {task: head(features) for task, head in self.heads.items()}
    if "depth" in outputs:
      outputs["depth"] = outputs["depth"][..., 0]
    if "normal" in outputs:
      outputs["normal"] = unit_length(outputs["normal"])
    return outputs


def unit_length(vectors: jax.Array) -> jax.Array:
  """Divides vectors [..., 3] by their lengths; zeros remain, with finite gradients."""
  square = jnp.sum(vectors**2, axis=-1, keepdims=True)
  return vectors / jnp.sqrt(jnp.where(square > 0, square, 1))
