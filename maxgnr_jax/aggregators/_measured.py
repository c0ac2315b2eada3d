"""What was measured of gradients that do not exist side by side."""

from typing import NamedTuple

import jax
import optax


class Measured(NamedTuple):
  """Stands for stacked gradients in an ``update``, which then returns a state alone.

  Attributes:
    finite: [K], bool: the tasks not known to have a gradient that is not finite.
    zero: [K], bool: the tasks whose gradient is exactly zero; None if what follows
      tells.
    grads: Stacked gradients of the trunk, with :class:`optax.MaskedNode` in place of
      other parameters; None if they were not kept.
    sketches: [K, size]: their sketches.
    gramian: [K, K]: their inner products.
  """

  finite: jax.Array
  zero: jax.Array | None = None
  grads: optax.Updates | None = None
  sketches: jax.Array | None = None
  gramian: jax.Array | None = None
