"""These tests need eight devices: ``tests/test_devices.py`` runs them."""

import os

import chex
import jax
import pytest

if "NUM_CPU_DEVICES" in os.environ:
  chex.set_n_cpu_devices(int(os.environ["NUM_CPU_DEVICES"]))


def pytest_collection_modifyitems(config, items):
  here = str(config.rootpath / "tests" / "devices")
  for item in items:
    if str(item.path).startswith(here) and jax.device_count() < 8:
      item.add_marker(pytest.mark.skip(reason="run by tests/test_devices.py"))
