"""All that methods differ in for the frame occurs among the representatives."""

from benchmarks.methods import AGGREGATORS
from tests.helpers.kinds import REPRESENTATIVES, kind
from tests.helpers.methods import METHODS


def test_what_kinds_differ_in_is_represented():
  everything = set().union(*(kind(name).items() for name in METHODS))
  represented = set().union(*(kind(name).items() for name in REPRESENTATIVES))
  assert represented == everything


def test_each_extra_argument_is_read_by_a_representative():
  needs = {name: set(row.needs) for name, row in AGGREGATORS.items()}
  read = [needs[name] for name in REPRESENTATIVES if name in needs]
  assert set.union(*read) == set.union(*needs.values())
