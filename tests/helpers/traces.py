"""Functions that may be traced a given number of times."""

import chex
import jax


def jit_with_max_traces(function, max_traces=1, **kwargs):
  """`jax.jit(function)`, which fails when it is traced more than `max_traces` times."""
  # chex counts the functions of one place in the code together, for example those of
  # several methods; from now on it counts this one.
  chex.clear_trace_counter()
  return jax.jit(chex.assert_max_traces(function, n=max_traces), **kwargs)
