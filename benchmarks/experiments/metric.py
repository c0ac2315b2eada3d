"""What a table says of a number that is measured on a task."""

from typing import NamedTuple


class Metric(NamedTuple):
  """One column of a table.

  Attributes:
    name: Key of the values.
    task: The task that it is measured on.
    label: Heading in the tables, with the unit.
    sign: 1 if larger is better, -1 if smaller is.
    places: Digits after the point.
    in_delta_m: Whether Δm, the mean change against single-task models, counts it.
  """

  name: str
  task: str
  label: str
  sign: int
  places: int
  in_delta_m: bool = True
