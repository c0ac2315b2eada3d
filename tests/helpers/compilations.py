"""What calls compile, and what they leave behind."""

import gc

import jax

_compiled: list[str] = []
jax.monitoring.register_event_duration_secs_listener(
  lambda event, *_, **__: _compiled.append(event) if "backend_compile" in event else 0
)


def left_by(call, times):
  """Numbers of compilations, and of programs and arrays more than before the calls."""
  before = _alive()
  _compiled.clear()
  for _ in range(times):
    jax.block_until_ready(call())
  compilations = len(_compiled)
  programs, arrays = (now - then for now, then in zip(_alive(), before, strict=True))
  return compilations, max(programs, 0), max(arrays, 0)


def _alive():
  gc.collect()
  programs = jax.local_devices()[0].client.live_executables()
  return len(programs), len(jax.live_arrays())
