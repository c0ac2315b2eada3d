"""Batches that are a function of seed and step, so that a run can begin at any step."""

import functools
import sys
from collections.abc import Iterator
from typing import Any

import grain
import numpy as np

from benchmarks.experiments.problem import Batch


def stream(batches: grain.MapDataset, start: int, stop: int) -> Iterator[Batch]:
  """The batches of steps ``start`` to ``stop``, loaded ahead by a thread."""
  options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)
  return iter(batches[start:stop].to_iter_dataset(options))


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
  """Endless batches of rows, in another order every epoch; what is left over waits."""
  return grain.MapDataset.source(_Shuffled(arrays, batch_size, seed))


def in_order(arrays: Batch, batch_size: int) -> Iterator[Batch]:
  """All rows once; the last batch may be smaller."""
  size = len(next(iter(arrays.values())))
  for begin in range(0, size, batch_size):
    yield {name: array[begin : begin + batch_size] for name, array in arrays.items()}


def held_out(size: int, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
  """Indices to train on, and those of a ``share`` held out at random, both sorted."""
  order = np.random.default_rng((seed, 1)).permutation(size)
  number = round(share * size)
  return np.sort(order[number:]), np.sort(order[:number])
