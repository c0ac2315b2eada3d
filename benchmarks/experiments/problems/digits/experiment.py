"""Methods x seeds x learning rates, of which validation data chooses one."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from benchmarks.experiments.problems.digits import data
from benchmarks.experiments.problems.digits.methods import METHODS
from benchmarks.experiments.problems.digits.model import TASKS
from benchmarks.experiments.problems.digits.train import History, make_run
from benchmarks.methods import EQUAL_WEIGHTS

LEARNING_RATES = (1e-4, 3e-4, 1e-3)
SIGNS = np.array([task.sign for task in TASKS.values()])
# A run's result is the mean over its last evaluations: a single one is noisy.
LAST = 10


class Result(NamedTuple):
  """One method's runs at the learning rate that did best on the validation data.

  Attributes:
    learning_rate: The chosen one.
    score: Learning rate -> what it was chosen by, mean over seeds.
    history: :class:`History` of NumPy arrays with a leading axis of seeds.
  """

  learning_rate: float
  score: dict[float, float]
  history: History


def run(
  methods: Sequence[str], seeds: int, num_steps: int
) -> tuple[dict[str, Result], dict[str, Result]]:
  """Trains everything; returns the single-task results by task, and those by method."""
  splits = data.load()
  runs = (len(TASKS) + len(methods)) * len(LEARNING_RATES) * seeds
  with tqdm(total=runs, unit="run", dynamic_ncols=True) as progress:

    def train(label, method, tasks, score):
      progress.set_description(label)
      run = make_run(method, tasks, num_steps, splits)
      return _best(run, seeds, score, progress.update)

    single = {}
    for index, task in enumerate(TASKS):

      def own_metric(metrics, index=index):
        return SIGNS[index] * metrics[index]

      single[task] = train(
        f"single-task model: {task}", EQUAL_WEIGHTS, [task], own_metric
      )
    base = single_task_metrics(single, "validation")
    joint = {
      name: train(name, METHODS[name], list(TASKS), lambda m: delta_m(m, base))
      for name in methods
    }
  return single, joint


def _best(
  run: Callable[[jax.Array, jax.Array], History],
  seeds: int,
  score: Callable[[np.ndarray], float],
  progress: Callable[[], object],
) -> Result:
  """All seeds at every learning rate, side by side on the CPU's cores."""

  def job(learning_rate: float, seed: int) -> History:
    history = run(jax.random.key(seed), jnp.float32(learning_rate))
    history = jax.tree.map(np.asarray, history)
    progress()
    return history

  with ThreadPoolExecutor(os.cpu_count()) as pool:
    jobs = {
      rate: [pool.submit(job, rate, seed) for seed in range(seeds)]
      for rate in LEARNING_RATES
    }
    histories = {
      rate: jax.tree.map(lambda *x: np.stack(x), *[f.result() for f in futures])
      for rate, futures in jobs.items()
    }
  scores = {
    rate: float(np.mean([score(m) for m in final(history.validation)]))
    for rate, history in histories.items()
  }
  # A run that diverged has no score, and is not chosen.
  best = max(scores, key=lambda rate: np.nan_to_num(scores[rate], nan=-np.inf))
  return Result(best, scores, histories[best])


def measures_gnr(result: Result) -> bool:
  """Whether the method's state holds the tasks' GNRs."""
  return not np.isnan(result.history.gnr).any()


def final(metrics: np.ndarray) -> np.ndarray:
  """[S, 4]: each seed's metrics, of evaluations [S, E, 4]."""
  return metrics[:, -LAST:].mean(1)


def single_task_metrics(single: dict[str, Result], split: str) -> np.ndarray:
  """[4]: each task's metric as its own model reaches it, mean over seeds."""
  return np.array(
    [
      final(getattr(single[task].history, split))[:, index].mean()
      for index, task in enumerate(TASKS)
    ]
  )


def delta_m(metrics: np.ndarray, base: np.ndarray) -> float:
  """Δm %: mean change of the tasks' metrics against ``base``; positive is better."""
  return float(np.mean(100 * SIGNS * (metrics - base) / base))
