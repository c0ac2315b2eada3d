"""Runs ``tests/devices`` on eight virtual devices in a new process."""

import os
import subprocess
import sys
from pathlib import Path


def test_tests_of_several_devices_pass_on_eight_devices(pytestconfig):
  environment = os.environ | {"NUM_CPU_DEVICES": "8", "JAX_PLATFORMS": "cpu"}
  for name in [name for name in environment if name.startswith("PYTEST_")]:
    del environment[name]
  folder = Path(__file__).parent / "devices"
  command = [
    sys.executable,
    "-m",
    "pytest",
    "-q",
    "-m",
    pytestconfig.getoption("markexpr"),
    "-p",
    "no:cacheprovider",
    "-n",
    "0",  # tests in one process share compilation
    str(folder),
  ]
  result = subprocess.run(
    command, env=environment, capture_output=True, text=True, check=False
  )
  assert result.returncode == 0, result.stdout[-5000:] + result.stderr[-2000:]
  assert "skipped" not in result.stdout.splitlines()[-1]
