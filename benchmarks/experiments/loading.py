"""Reads arrays, and makes batches from seed and step: a run can begin anywhere."""

import functools
import sys
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import grain
import numpy as np

from benchmarks.experiments.problem import Batch

# What NumPy raises for files that are not archives, or damaged ones; a TypeError for
# one of its own that holds a single array.
_UNREADABLE = (
  OSError,
  ValueError,
  EOFError,
  TypeError,
  zipfile.BadZipFile,
  zlib.error,
)


def read_npz(path: Path, names: Iterable[str], what: str) -> dict[str, np.ndarray]:
  """Reads arrays from an .npz file.

  Args:
    path: The file.
    names: The arrays that it must hold.
    what: The data's name, for errors.

  Raises:
    ValueError: if it is not such a file or lacks an array.
  """
  if not path.is_file():
    raise ValueError(f"--data must be {what} as one .npz file, {path} is none")
  try:
    # Opened here: of one that is damaged NumPy would leave it open.
    with path.open("rb") as opened, np.load(opened) as file:
      arrays = {name: file[name] for name in names if name in file}
  except _UNREADABLE as error:
    raise ValueError(f"{path} cannot be read as an .npz file: {error}") from error
  for name in names:
    if name not in arrays:
      raise ValueError(f"{path} lacks the array {name!r}; it needs {', '.join(names)}")
  return arrays


def stream(
  batches: grain.MapDataset, start: int = 0, stop: int | None = None, stacked: int = 1
) -> Iterator[Batch]:
  """Yields the batches of steps ``start`` to ``stop``, made ahead by other threads.

  Args:
    batches: Element t is the batch of step t.
    start: The first step.
    stop: The step after the last one; None for no end.
    stacked: Batches that come at once; more than 1 are stacked on a new leading axis.
  """
  options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)
  chosen = batches[start:stop]
  if stacked > 1:
    chosen = chosen.batch(stacked)
  return iter(chosen.to_iter_dataset(options))


@functools.lru_cache(maxsize=16)  # an epoch's steps share it
def _order(size: int, seed: int, epoch: int) -> np.ndarray:
  return np.random.default_rng((seed, epoch)).permutation(size)


class _Shuffled:
  """A source for grain: element t is the batch of step t, of arrays in memory."""

  def __init__(self, arrays: Batch, batch_size: int, seed: int):
    self._arrays, self._batch_size, self._seed = arrays, batch_size, seed
    self._size = len(next(iter(arrays.values())))

  def __len__(self) -> int:
    return sys.maxsize

  def __getitem__(self, step: Any) -> Batch:
    epoch, index = divmod(int(step), self._size // self._batch_size)
    order = _order(self._size, self._seed, epoch)
    rows = order[index * self._batch_size : (index + 1) * self._batch_size]
    return {name: array[rows] for name, array in self._arrays.items()}


def shuffled(arrays: Batch, batch_size: int, seed: int) -> grain.MapDataset:
  """Makes endless batches of rows, in another order every epoch.

  Rows that do not fill a batch are left out of that epoch.
  """
  return grain.MapDataset.source(_Shuffled(arrays, batch_size, seed))


def in_order(arrays: Batch, batch_size: int) -> Iterator[Batch]:
  """Yields all rows once; the last batch may be smaller."""
  size = len(next(iter(arrays.values())))
  for begin in range(0, size, batch_size):
    yield {name: array[begin : begin + batch_size] for name, array in arrays.items()}


def hold_out(size: int, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
  """Divides examples at random; returns numbers to train on and held out, in order.

  Args:
    size: The number of examples.
    share: Share that is held out, in [0, 1). Above 0, each side has an example.
    seed: Determines the random choice.
  """
  if not 0 <= share < 1:
    raise ValueError(f"`share` must be in [0, 1), got {share}")
  if share and size < 2:
    raise ValueError(f"`size` must be at least 2 to be divided, got {size}")
  number = min(max(round(share * size), 1), size - 1) if share else 0
  order = np.random.default_rng(seed).permutation(size)
  return np.sort(order[number:]), np.sort(order[:number])
