"""Tells whether the caller compiles, so that loops must be compiled with the rest."""

import jax
import jax.numpy as jnp


def is_staged() -> bool:
  """Tells whether operations are recorded for a compilation, as under :func:`jax.jit`.

  If not, run a loop in Python: :func:`jax.lax.scan` and :func:`jax.lax.map` would
  compile it at each call, because its function is a new one each time, and would hide
  the numbers from a user who looks at them while the losses are computed.
  """
  # Everything is recorded under `jit`, also what depends on no argument. Under `vmap`
  # and `grad` alone it is not.
  return isinstance(jnp.arange(1), jax.core.Tracer)
