"""Each kind of method has one representative in the tests of the frame."""

from benchmarks.methods import AGGREGATORS
from tests.helpers.kinds import REPRESENTATIVES, kind
from tests.helpers.methods import METHODS


def test_each_kind_has_one_representative():
  kinds = {name: kind(name) for name in METHODS}
  represented = [kinds[name] for name in REPRESENTATIVES]
  assert sorted(set(kinds.values()), key=str) == sorted(represented, key=str)


def test_each_extra_argument_is_read_by_a_representative():
  needs = {name: set(row.needs) for name, row in AGGREGATORS.items()}
  read = [needs[name] for name in REPRESENTATIVES if name in needs]
  assert set.union(*read) == set.union(*needs.values())
