"""Which cases of a test `make test` leaves to `make test-all`."""

import pytest


def thorough_but(kept, cases):
  """The cases as a test's parameters; those that are not kept are `thorough`."""
  return [case if case in kept else _thorough(case) for case in cases]


def _thorough(case):
  values = case if isinstance(case, tuple) else (case,)
  return pytest.param(*values, marks=pytest.mark.thorough)
