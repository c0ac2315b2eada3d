"""Describes the machine, for result files."""

import os
import platform
from pathlib import Path

import jax


def describe_machine() -> dict[str, str | int | None]:
  """Collects processor, cores, system and versions."""
  return {
    "processor": _processor(),
    "cores": os.cpu_count(),
    "platform": platform.platform(),
    "backend": jax.default_backend(),
    "python": platform.python_version(),
    "jax": jax.__version__,
  }


def _processor() -> str:
  """Finds the processor's name; `platform.processor` is often empty on Linux."""
  info = Path("/proc/cpuinfo")
  if info.exists():
    for line in info.read_text().splitlines():
      if line.startswith("model name"):
        return line.split(":", 1)[1].strip()
  return platform.processor()
