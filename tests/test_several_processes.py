"""The example of several processes: as many as there are, the result is the same."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "examples" / "several_processes.py"


def trained(out, *options):
  """Parameters after a few steps."""
  paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
  environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
  command = [sys.executable, str(EXAMPLE), "--steps", "6", "--out", str(out), *options]
  child = subprocess.run(
    # The processes end themselves before their parent would be killed.
    [*command, "--timeout", "150"],
    env=environment,
    capture_output=True,
    text=True,
    timeout=200,
    check=False,
  )
  assert child.returncode == 0, child.stdout[-5000:] + child.stderr[-5000:]
  assert len(child.stdout.splitlines()) >= 2  # steps 0 and 5
  return np.load(out)


def test_two_processes_train_as_one_does(tmp_path):
  one = trained(tmp_path / "one.npz", "--processes", "1")
  for options in ([], ["--shard-params"]):
    two = trained(tmp_path / "two.npz", "--processes", "2", *options)
    assert one.files == two.files
    for name in one.files:
      np.testing.assert_allclose(two[name], one[name], rtol=1e-4, atol=1e-5)
