"""Runs programs in new processes that compile as quickly as the tests do."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def quick_environment():
  """Environment variables that do for a process what `quick_compilation` does."""
  flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_use_fusion_emitters=false"
  paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
  return os.environ | {
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    "XLA_FLAGS": flags.strip(),
    "PYTHONPATH": os.pathsep.join(paths),
  }


def run(*arguments, timeout=600):
  """Runs ``python -m MODULE OPTION...`` or ``python FILE OPTION...`` to its end."""
  return subprocess.run(
    [sys.executable, *arguments],
    cwd=ROOT,
    env=quick_environment(),
    capture_output=True,
    text=True,
    timeout=timeout,
    check=False,
  )
