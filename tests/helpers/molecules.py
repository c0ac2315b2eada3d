"""Provides a tiny file of molecules, whose names of tasks are not sorted."""

import numpy as np

NAMES = ("b", "c", "a")
SIZES = {"train": 24, "validation": 10, "test": 12}


def random_molecules():
  """Draws the arrays that a file of molecules holds."""
  random = np.random.default_rng(0)
  number = sum(SIZES.values())
  label = random.integers(-1, 2, size=(number, len(NAMES)), dtype=np.int8)
  split = np.repeat(np.arange(3, dtype=np.int8), [*SIZES.values()])
  for part in range(3):  # each split has both labels of each task
    first = np.flatnonzero(split == part)[0]
    label[first], label[first + 1] = 0, 1
  order = random.permutation(number)
  return {
    "fingerprint": random.integers(256, size=(number, 128), dtype=np.uint8),
    "label": label[order],
    "task": np.array(NAMES),
    "split": split[order],
  }


def write_molecules(folder, **changes):
  path = folder / "molecules.npz"
  arrays = random_molecules() | changes
  np.savez(path, **{name: x for name, x in arrays.items() if x is not None})
  return path
