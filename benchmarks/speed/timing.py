"""Times compiled functions in turn, and summarises the times."""

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np


class Run:
  """A compiled ``fun(state, *args)`` with its state donated, as in a train step.

  Args:
    fun: Returns a pair: anything, and the next state.
    state: The first state, or None for a function without.
    args: Every call's further arguments.
  """

  def __init__(self, fun: Callable[..., tuple[Any, Any]], state: Any, *args: Any):
    self.state, self.args = state, args
    start = time.perf_counter()
    self.compiled = jax.jit(fun, donate_argnums=0).lower(state, *args).compile()
    self.compile_seconds = time.perf_counter() - start

  def __call__(self) -> float:
    """Runs it once; returns the seconds."""
    start = time.perf_counter()
    result, self.state = self.compiled(self.state, *self.args)
    jax.block_until_ready((result, self.state))
    return time.perf_counter() - start

  def temporary_bytes(self) -> int:
    """Counts temporary memory in bytes, besides arguments and results."""
    analysis: Any = self.compiled.memory_analysis()
    return analysis.temp_size_in_bytes


def interleave(
  runs: dict[str, Callable[[], float]], rounds: int, progress: Callable[[], object]
) -> dict[str, list[float]]:
  """Times every run in every round, in seconds, one after the other in each round.

  Each is called twice and timed the second time, as in training a step follows one of
  its kind: what another program left in caches and memory would cost the first.
  """
  seconds: dict[str, list[float]] = {name: [] for name in runs}
  for _ in range(rounds):
    for name, run in runs.items():
      run()
      seconds[name].append(run())
    progress()
  return seconds


def summarise(seconds: list[float]) -> dict[str, Any]:
  """Computes median and quartiles in ms."""
  low, middle, high = np.percentile(1e3 * np.array(seconds), [25, 50, 75])
  return {"median_ms": middle, "quartiles_ms": [low, high]}


def ratio(seconds: list[float], others: list[float]) -> float:
  """Computes the median ratio to the other times of the same round."""
  return float(np.median(np.array(seconds) / np.array(others)))
