"""Measures how exactly the aggregators solve their problems, in float32 on the device.

``python -m benchmarks.accuracy.residuals`` compares each solution with the problem in
float64. Gradients are the noise vectors of ``benchmarks.accuracy.battery``, which are
independent or correlated in several ways, with condition numbers of 10 and 1,000 and
norms that spread over one order of magnitude.
"""

import argparse
import itertools
import json
import shlex
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from tabulate import tabulate
from tqdm import tqdm

from benchmarks.accuracy import battery
from benchmarks.machine import describe_machine
from maxgnr_jax import aggregators

NUM_TASKS = (2, 3, 5, 10, 20, 40)
FAIRNESS, RADIUS = 2.0, 0.5


def nash_mtl(jacobian: np.ndarray, weights: np.ndarray) -> float:
  """The largest ``|(G w)_k w_k - 1|``."""
  return float(np.abs(jacobian @ (weights @ jacobian) * weights - 1).max())


def fairgrad(jacobian: np.ndarray, weights: np.ndarray) -> float:
  """The largest ``|(G w)_k w_k^(1/α) - 1|``."""
  gains = jacobian @ (weights @ jacobian)
  return float(np.abs(gains * weights ** (1 / FAIRNESS) - 1).max())


def cagrad(jacobian: np.ndarray, weights: np.ndarray) -> float:
  """The duality gap in units of ``max ‖g_k‖ ‖g_0‖``."""
  mean, update = jacobian.mean(0), weights @ jacobian
  radius = RADIUS * np.linalg.norm(mean)
  dual = weights - 1 / len(weights)
  direction = dual / dual.sum() @ jacobian
  bound = direction @ mean + radius * np.linalg.norm(direction)
  unit = np.linalg.norm(jacobian, axis=1).max() * np.linalg.norm(mean)
  return float((bound - (jacobian @ update).min()) / unit)


def mgda(jacobian: np.ndarray, weights: np.ndarray) -> float:
  """The update's length above the shortest one's, in units of the shortest gradient."""
  shortest_gradient = np.linalg.norm(jacobian, axis=1).min()
  system = np.vstack([jacobian.T / shortest_gradient, np.ones(len(weights))])
  x, _ = scipy.optimize.nnls(system, np.append(np.zeros(jacobian.shape[1]), 1.0))
  lengths = [np.linalg.norm(w @ jacobian) for w in (weights, x / x.sum())]
  return float((lengths[0] - lengths[1]) / shortest_gradient)


def upgrad(jacobian: np.ndarray, weights: np.ndarray) -> float:
  """The update's relative distance from that of SciPy's NNLS."""
  preferences = np.eye(len(weights)) / len(weights)
  exact = sum(
    p + scipy.optimize.nnls(jacobian.T, -jacobian.T @ p)[0] for p in preferences
  )
  error = np.linalg.norm((weights - exact) @ jacobian)
  return float(error / np.linalg.norm(exact @ jacobian))


# Maps each method to its weights of a Gramian and to the residual of its definition.
METHODS = {
  "Nash-MTL": (aggregators.nash_mtl_weights, nash_mtl),
  "FairGrad, α = 2": (lambda g: aggregators.fairgrad_weights(g, FAIRNESS), fairgrad),
  "CAGrad, c = 0.5": (lambda g: aggregators.cagrad_weights(g, RADIUS), cagrad),
  "MGDA": (aggregators.mgda_weights, mgda),
  "UPGrad": (aggregators.upgrad_weights, upgrad),
}


def main() -> None:
  """Prints a table and writes it and all numbers to ``residuals/``."""
  parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy.residuals")
  parser.add_argument("--out", type=Path, default=Path("benchmarks/results/residuals"))
  args = parser.parse_args()

  cases = list(itertools.product(METHODS, NUM_TASKS))
  summary = {
    "command": shlex.join(
      ["python", "-m", "benchmarks.accuracy.residuals", *sys.argv[1:]]
    ),
    "seeds": battery.NUM_SEEDS,
    "machine": describe_machine(),
    "definitions": {name: check.__doc__ for name, (_, check) in METHODS.items()},
    "residuals": [
      measure(*case) for case in tqdm(cases, unit="case", dynamic_ncols=True)
    ],
  }
  args.out.mkdir(parents=True, exist_ok=True)
  text = json.dumps(summary, indent=1, ensure_ascii=False)
  (args.out / "results.json").write_text(text + "\n")
  (args.out / "table.md").write_text(table(summary) + "\n")
  print(table(summary))


def measure(name: str, num_tasks: int) -> dict:
  """Measures a method's residuals over all kinds of problems."""
  weighting, check = METHODS[name]
  weigh = jax.jit(weighting)
  left = []
  for kind, condition, seed in itertools.product(
    battery.KINDS, battery.CONDITION_NUMBERS, range(battery.NUM_SEEDS)
  ):
    jacobian = battery.problem(kind, num_tasks, condition, 1, seed).noise
    weights = weigh(jnp.asarray(jacobian @ jacobian.T, jnp.float32))
    left.append(check(jacobian, np.asarray(weights, np.float64)))
  return {
    "method": name,
    "tasks": num_tasks,
    "problems": len(left),
    "median": float(np.median(left)),
    "worst": float(np.max(left)),
  }


def table(summary: dict) -> str:
  """Formats median and worst residual by number of tasks as a Markdown table."""
  found = {(entry["method"], entry["tasks"]): entry for entry in summary["residuals"]}
  rows = [
    [
      num_tasks,
      *(
        f"{found[name, num_tasks]['median']:.0e}, {found[name, num_tasks]['worst']:.0e}"
        for name in METHODS
      ),
    ]
    for num_tasks in NUM_TASKS
  ]
  return tabulate(rows, ["K", *METHODS], tablefmt="github", disable_numparse=True)


if __name__ == "__main__":
  main()
