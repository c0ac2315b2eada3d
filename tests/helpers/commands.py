"""Runs programs in new processes that compile as quickly as the tests do."""

import importlib.util
import os
import runpy
import subprocess
import sys
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).parent.parent.parent
# XLA's newer emitters for CPUs more than double the time of compilation. By default it
# also splits each program into many modules, which only pays for large ones.
QUICK_OPTIONS = {
  "xla_cpu_use_fusion_emitters": False,
  "xla_cpu_parallel_codegen_split_count": 1,
}


def quick_environment():
  """Environment variables that do for a process what `quick_compilation` does."""
  quick = [f"--{name}={str(value).lower()}" for name, value in QUICK_OPTIONS.items()]
  flags = " ".join([os.environ.get("XLA_FLAGS", ""), *quick])
  paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
  return os.environ | {
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    "XLA_FLAGS": flags.strip(),
    "PYTHONPATH": os.pathsep.join(paths),
  }


def run(*arguments, timeout=600):
  """Runs ``python -m MODULE OPTION...`` or ``python FILE OPTION...`` to its end."""
  return execute([sys.executable, *arguments], ROOT, quick_environment(), timeout)


def execute(command, folder, environment, timeout=600):
  """Runs a command in a folder to its end, and keeps what it prints."""
  return subprocess.run(
    [str(part) for part in command],
    cwd=folder,
    env=environment,
    capture_output=True,
    text=True,
    timeout=timeout,
    check=False,
  )


def run_here(module, *arguments):
  """Runs ``python -m MODULE OPTION...`` in this process, which compiles quickest."""
  package = importlib.util.find_spec(module).submodule_search_locations
  program = f"{module}.__main__" if package else module
  imported = sys.modules.pop(program, None)  # it is to run once more
  try:
    with mock.patch.object(sys, "argv", [module, *arguments]):
      runpy.run_module(module, run_name="__main__", alter_sys=True)
  finally:
    if imported:
      sys.modules[program] = imported
