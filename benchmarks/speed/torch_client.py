"""Sends orders to :mod:`benchmarks.speed.torch_worker`, and reads its answers."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.speed.cases import Case

VERSIONS = """
import json, torch
try:
  import importlib.metadata as m
  torchjd = m.version("torchjd")
except m.PackageNotFoundError:
  torchjd = None
print(json.dumps({"torch": torch.__version__, "torchjd": torchjd,
                  "threads": torch.get_num_threads()}))
"""


class Torch:
  """A process with PyTorch, which waits while JAX is measured.

  Args:
    python: Python of an environment with PyTorch, and perhaps TorchJD.
  """

  def __init__(self, python: Path):
    worker = Path(__file__).with_name("torch_worker.py")
    self.process = subprocess.Popen(
      [str(python), str(worker)],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=subprocess.DEVNULL,
      text=True,
    )
    versions = subprocess.run(
      [str(python), "-c", VERSIONS], capture_output=True, text=True, check=True
    )
    self.versions: dict[str, Any] = json.loads(versions.stdout)

  def runs(self, case: Case) -> dict[str, Callable[[], float]]:
    """Returns functions that run on gradients like the case's and return seconds."""
    parameters = case.floor() // (4 * case.tasks + 1)
    copied = case.floor_bytes() // 8  # read once and written once, four bytes each
    names = self._ask({"setup": [case.tasks, parameters, copied]})
    return {f"torch {name}": self._run(name) for name in names}

  def close(self) -> None:
    """Ends the process."""
    assert self.process.stdin is not None
    self.process.stdin.close()
    self.process.wait()

  def _run(self, name: str) -> Callable[[], float]:
    return lambda: self._ask({"run": name})

  def _ask(self, order: dict) -> Any:
    assert self.process.stdin is not None
    assert self.process.stdout is not None
    self.process.stdin.write(json.dumps(order) + "\n")
    self.process.stdin.flush()
    return json.loads(self.process.stdout.readline())
