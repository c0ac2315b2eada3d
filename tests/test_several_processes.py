"""The example of several processes gives the same result for any number of them."""

import numpy as np
import pytest

from tests.helpers import commands

EXAMPLE = commands.ROOT / "examples" / "several_processes.py"


def trained(out, *options):
  """Parameters after a few steps."""
  options = ["--steps", "6", "--out", str(out), *options]
  # The example's own timeout is shorter, so that no process outlives the test.
  child = commands.run(str(EXAMPLE), *options, "--timeout", "150", timeout=200)
  assert child.returncode == 0, child.stdout[-5000:] + child.stderr[-5000:]
  assert len(child.stdout.splitlines()) >= 2  # steps 0 and 5
  return np.load(out)


@pytest.mark.thorough
def test_training_on_two_processes_equals_training_on_one(tmp_path):
  one = trained(tmp_path / "one.npz", "--processes", "1")
  for options in ([], ["--shard-params"]):
    two = trained(tmp_path / "two.npz", "--processes", "2", *options)
    assert one.files == two.files
    for name in one.files:
      np.testing.assert_allclose(two[name], one[name], rtol=1e-4, atol=1e-5)
