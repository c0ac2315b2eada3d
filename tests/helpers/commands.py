"""Programs in processes of their own, where little is optimised either."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def quick_environment():
  """What the fixture `quick_compilation` sets, for another process."""
  flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_use_fusion_emitters=false"
  paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
  return os.environ | {
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    "XLA_FLAGS": flags.strip(),
    "PYTHONPATH": os.pathsep.join(paths),
  }


def run(*arguments, timeout=600):
  """What ``python -m MODULE OPTION...`` or ``python FILE OPTION...`` says."""
  return subprocess.run(
    [sys.executable, *arguments],
    cwd=ROOT,
    env=quick_environment(),
    capture_output=True,
    text=True,
    timeout=timeout,
    check=False,
  )
