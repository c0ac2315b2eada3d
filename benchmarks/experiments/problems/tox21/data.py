"""Molecules from a file, which holds fingerprints, labels and the division.

An .npz file of N molecules and K assays:

- ``fingerprint`` [N, 128], uint8: 1,024 bits of a Morgan fingerprint of radius 2,
  packed by :func:`numpy.packbits`;
- ``label`` [N, K], integers: 1 active, 0 inactive, -1 not measured;
- ``task`` [K]: the assays' names;
- ``split`` [N], integers: 0 training, 1 validation, 2 test.

``tox21.csv`` of MoleculeNet has SMILES and labels. RDKit makes a molecule of each with
``Chem.MolFromSmiles`` (drop those that it cannot read), the bits with
``rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=1024)``, and the scaffold
with ``MurckoScaffold.MurckoScaffoldSmiles``. Molecules of one scaffold stay together:
go through the scaffolds from the one with most molecules to the one with fewest, and
fill 80 % for training, then 10 % for validation, then the test set.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.experiments.loading import read_npz

BITS = 1024
SPLITS = ("train", "validation", "test")  # in the order of the file's numbers
_ARRAYS = {"fingerprint": 2, "label": 2, "task": 1, "split": 1}


class Molecules(NamedTuple):
  """N molecules and K assays.

  Attributes:
    bits: [N, 1024], float32, 0 or 1.
    label: [N, K], int8: 1 active, 0 inactive, -1 not measured.
    split: [N], int8: a number of ``SPLITS``.
    names: The assays' names.
  """

  bits: np.ndarray
  label: np.ndarray
  split: np.ndarray
  names: tuple[str, ...]

  def rows(self, *splits: str) -> np.ndarray:
    """Lists the numbers of the molecules in some splits, in order."""
    return np.flatnonzero(np.isin(self.split, [SPLITS.index(x) for x in splits]))


def load(path: Path) -> Molecules:
  """Loads an .npz file as described above.

  Raises:
    ValueError: if the file is not such a file.
  """
  arrays = read_npz(path, _ARRAYS, "Tox21")
  for name, ndim in _ARRAYS.items():
    if arrays[name].ndim != ndim:
      raise ValueError(
        f"{path}: {name} must have {ndim} axes, got the shape {arrays[name].shape}"
      )
  _check_shapes(path, arrays)
  _check_values(path, arrays)
  return Molecules(
    np.unpackbits(arrays["fingerprint"], axis=1).astype(np.float32),
    arrays["label"].astype(np.int8),
    arrays["split"].astype(np.int8),
    tuple(map(str, arrays["task"])),
  )


def _check_shapes(path: Path, arrays: dict[str, np.ndarray]) -> None:
  fingerprint, label, task, split = (arrays[name] for name in _ARRAYS)
  if fingerprint.dtype != np.uint8 or fingerprint.shape[1] != BITS // 8:
    raise ValueError(
      f"{path}: fingerprint must be uint8 [N, {BITS // 8}], {BITS} packed bits, got "
      f"{fingerprint.dtype} {fingerprint.shape}"
    )
  if label.shape != (len(fingerprint), len(task)) or len(split) != len(fingerprint):
    raise ValueError(
      f"{path} must have a label for each molecule and task, and a split for each "
      f"molecule, got labels {label.shape} and {len(split)} splits for "
      f"{len(fingerprint)} molecules and {len(task)} tasks"
    )
  if task.dtype.kind != "U" or len(set(task.tolist())) < max(1, len(task)):
    raise ValueError(f"{path}: task must hold different names, got {task.tolist()}")


def _check_values(path: Path, arrays: dict[str, np.ndarray]) -> None:
  for name, allowed in {"label": (-1, 0, 1), "split": (0, 1, 2)}.items():
    values = arrays[name]
    if values.dtype.kind not in "iu" or not np.isin(values, allowed).all():
      raise ValueError(
        f"{path}: {name} must be integers among {', '.join(map(str, allowed))}, got "
        f"{values.dtype} with {np.unique(values)[:5].tolist()}"
      )
  for number, split in enumerate(SPLITS):
    label = arrays["label"][arrays["split"] == number]
    for column, task in enumerate(arrays["task"]):
      if not {0, 1} <= set(label[:, column].tolist()):
        raise ValueError(
          f"{path}: each split must have active and inactive molecules for each task, "
          f"which {task} lacks in the {split} split"
        )
