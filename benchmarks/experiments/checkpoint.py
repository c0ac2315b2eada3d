"""Saves runs so that one that was killed can be resumed."""

import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from benchmarks.experiments.step import RunState

# Runs side by side are threads, and Orbax tells its operations apart process-wide.
_ONE_AT_A_TIME = threading.Lock()


class Best(NamedTuple):
  """The model that did best on the training set, held by the host.

  Attributes:
    score: [], geometric mean of its epoch's mean losses; the smallest is chosen.
    epoch: [], int32. The epoch that ended with it, from 1 on; 0 if there is none yet.
    params: Its parameters.
    rest: Its batch statistics.
  """

  score: np.ndarray
  epoch: np.ndarray
  params: Any
  rest: Any


class Snapshot(NamedTuple):
  """A run between two steps.

  Attributes:
    state: Everything that steps change.
    best: The best model so far.
    history: One row per epoch done, for JSON.
  """

  state: RunState
  best: Best
  history: list[dict[str, Any]]


class Checkpoints:
  """Keeps the last snapshots of a run in a folder.

  A new snapshot replaces an old one once it is completely written.

  Args:
    folder: The folder of the snapshots.
    seconds: Least time between two snapshots.
  """

  def __init__(self, folder: Path, seconds: float):
    self._seconds = seconds
    self._last = time.monotonic()
    options = ocp.CheckpointManagerOptions(max_to_keep=2)
    with _ONE_AT_A_TIME:
      self._manager = ocp.CheckpointManager(folder.absolute(), options=options)

  def save_if_due(self, snapshot: Snapshot) -> None:
    """Saves a snapshot if the last one is old enough."""
    if time.monotonic() - self._last < self._seconds:
      return
    args = ocp.args.Composite(
      state=ocp.args.StandardSave(snapshot.state),
      best=ocp.args.StandardSave(snapshot.best),
      history=ocp.args.JsonSave(snapshot.history),
    )
    with _ONE_AT_A_TIME:
      self._manager.save(int(snapshot.state.step), args=args)
      self._manager.wait_until_finished()
    self._last = time.monotonic()

  def restore(self, like: Snapshot) -> Snapshot | None:
    """Loads the last complete snapshot to the devices of ``like``, or returns None."""
    step = self._manager.latest_step()
    if step is None:
      return None
    args = ocp.args.Composite(
      state=ocp.args.StandardRestore(_shapes(like.state)),
      best=ocp.args.StandardRestore(_shapes(like.best)),
      history=ocp.args.JsonRestore(),
    )
    with _ONE_AT_A_TIME:
      saved = self._manager.restore(step, args=args)
    return Snapshot(saved.state, saved.best, saved.history)

  def close(self) -> None:
    """Closes the folder."""
    with _ONE_AT_A_TIME:
      self._manager.close()


def save_model(folder: Path, best: Best) -> None:
  """Writes a model for :func:`load_model`."""
  with _ONE_AT_A_TIME, ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(folder.absolute(), best, force=True)


def load_model(folder: Path, like: Best) -> Best:
  """Loads a model that :func:`save_model` wrote, with the shapes of ``like``."""
  with _ONE_AT_A_TIME, ocp.StandardCheckpointer() as checkpointer:
    return checkpointer.restore(folder.absolute(), _shapes(like))


def _shapes(tree: Any) -> Any:
  """Describes JAX arrays by shape, dtype and devices; leaves others as they are."""

  def shape(x):
    return ocp.utils.to_shape_dtype_struct(x) if isinstance(x, jax.Array) else x

  return jax.tree.map(shape, tree)
