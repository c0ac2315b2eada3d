"""A partition of the tasks into groups that train well together."""

import itertools
from collections.abc import Iterator

import jax
import numpy as np

from maxgnr_jax._checks import check_choice
from maxgnr_jax._gnr import GradientStats
from maxgnr_jax._interference import retained_by_members

# Up to this many tasks all partitions are looked at.
MOST_ENUMERATED = 10

Group = frozenset[int]


def group_tasks(
  stats: GradientStats, num_groups: int, *, objective: str = "least"
) -> list[list[int]]:
  """Divides the tasks into groups in which they keep most of their own GNR.

  The shares that tasks keep are those of :func:`retained_gnr`: K-sized algebra on the
  statistics of one joint run, without training any group. They do not tell how well
  groups train: on both data sets where that was measured (see docs/which-tasks.md),
  groups that were proposed did worse than all others, perhaps because related tasks
  share their noise as well as what they learn. Take them for a diagnosis, not for a
  plan.

  Args:
    stats: Statistics of the K tasks, best averages of a joint run: give ``maxgnr`` a
      ``noise_decay`` near 1.
    num_groups: Number of groups, from 1 to K. No group is empty.
    objective: What to make as large as possible: "least", the smallest share of any
      task (in case of a tie, the mean share), or "mean", the mean share. Shares above 1
      count as 1.

  Returns:
    A list of groups in the order of their first tasks, each a sorted list of task
    numbers. Among equally good partitions it is the one that puts the first tasks
    together. Up to ten tasks it is the best partition, found by looking at all 2^K - 1
    possible groups (about a second) and all partitions. For more tasks, groups are
    merged in pairs, the best first, and then single tasks are moved while that helps:
    about K³ groups are looked at, and the partition need not be the best.

  Raises:
    ValueError: for ``num_groups`` outside 1 to K and another ``objective``.

  Example:
    >>> import jax.numpy as jnp
    >>> from maxgnr_jax import GradientStats, group_tasks
    >>> ratio = jnp.array([1.0, 9.0, 1.0, 9.0])  # noise to gradient
    >>> stats = GradientStats(jnp.ones(4), ratio, jnp.eye(4))
    >>> group_tasks(stats, 2)
    [[0, 2], [1, 3]]
  """
  number = stats.noise_norm.size
  check_choice("objective", objective, ("least", "mean"))
  if not isinstance(num_groups, int) or not 1 <= num_groups <= number:
    raise ValueError(
      f"`num_groups` must be an integer from 1 to the number of tasks, {number}, got "
      f"{num_groups!r}."
    )
  shares = _Shares(stats)

  def value(partition: list[Group]) -> tuple[float, float]:
    found = np.concatenate([shares.of(group) for group in partition])
    # Rounded, so that ties are ties.
    least, mean = np.round(found.min(), 4), np.round(found.mean(), 4)
    return (least, mean) if objective == "least" else (mean, least)

  if number <= MOST_ENUMERATED:
    subsets = range(1, number + 1)
    shares.look_at(
      [frozenset(s) for n in subsets for s in itertools.combinations(range(number), n)]
    )
    best = max(_partitions(number, num_groups), key=value)
  else:
    best = _moved(_merged(number, num_groups, shares, value), shares, value)
  return sorted(sorted(group) for group in best)


class _Shares:
  """The shares of groups that were looked at."""

  def __init__(self, stats: GradientStats):
    self.stats, self.known = stats, dict[Group, np.ndarray]()

  def of(self, group: Group) -> np.ndarray:
    return self.known[group]

  def look_at(self, groups: list[Group]) -> None:
    new = [group for group in dict.fromkeys(groups) if group not in self.known]
    if not new:
      return
    number = self.stats.noise_norm.size
    members = np.zeros((-(-len(new) // 64) * 64, number), bool)  # few sizes to compile
    for row, group in zip(members, new, strict=False):
      row[list(group)] = True
    members[len(new) :, 0] = True
    found = np.asarray(_retained(self.stats, members))
    for row, group in zip(found, new, strict=False):
      self.known[group] = np.minimum(row[sorted(group)], 1.0)


_retained = jax.jit(jax.vmap(retained_by_members, in_axes=(None, 0)))


def _partitions(number: int, num_groups: int) -> Iterator[list[Group]]:
  """Yields all partitions, those first in which the first tasks are together."""

  def extend(task: int, groups: list[list[int]]) -> Iterator[list[Group]]:
    if task == number:
      if len(groups) == num_groups:
        yield [frozenset(group) for group in groups]
      return
    for group in groups:
      group.append(task)
      yield from extend(task + 1, groups)
      group.pop()
    if len(groups) < num_groups:
      yield from extend(task + 1, [*groups, [task]])

  return extend(0, [])


def _merged(number, num_groups, shares, value) -> list[Group]:
  """Merges the pair of groups that leaves the largest value until few are left."""
  groups = [frozenset([task]) for task in range(number)]
  shares.look_at(groups)
  while len(groups) > num_groups:
    pairs = list(itertools.combinations(groups, 2))
    shares.look_at([a | b for a, b in pairs])
    merged = [[a | b, *(g for g in groups if g not in (a, b))] for a, b in pairs]
    groups = max(merged, key=value)
  return groups


def _moved(groups, shares, value) -> list[Group]:
  """Moves single tasks to other groups, the best move first, while that helps."""
  while True:
    moves = []
    for source, target in itertools.permutations(groups, 2):
      rest = [g for g in groups if g not in (source, target)]
      if len(source) > 1:
        moves += [[source - {t}, target | {t}, *rest] for t in sorted(source)]
    shares.look_at([group for partition in moves for group in partition])
    best = max(moves, key=value, default=groups)
    if value(best) <= value(groups):
      return groups
    groups = best
