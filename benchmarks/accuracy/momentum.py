"""Measures the rounding error of momenta in bfloat16 and float16, and its cost.

Run ``python -m benchmarks.accuracy.momentum``.

Gradients are normally distributed around a mean that changes once, halfway through the
run. Momenta in bfloat16 and float16, rounded to the nearest or stochastically, are
compared with the same update in float64. The time of an update is measured too.
"""

import argparse
import itertools
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tabulate import tabulate
from tqdm import tqdm

from benchmarks.machine import describe_machine
from benchmarks.speed.timing import Run, interleave, ratio, summarise
from maxgnr_jax import maxgnr

SIZE, TASKS = 10_000, 2
GAMMAS = (0.9, 0.99, 0.999)
# Standard deviations of gradients, in units of the standard deviation of their means.
NOISES = (0.1, 1.0, 10.0)
KINDS: dict[str, dict[str, Any]] = {
  "float32": {"momentum_dtype": jnp.float32},
  "bfloat16": {"momentum_dtype": jnp.bfloat16},
  "bfloat16, stochastic": {
    "momentum_dtype": jnp.bfloat16,
    "momentum_rounding": "stochastic",
  },
  "float16": {"momentum_dtype": jnp.float16},
  "float16, stochastic": {
    "momentum_dtype": jnp.float16,
    "momentum_rounding": "stochastic",
  },
}
TIMED = (3, 5_000_000)


def main() -> None:
  """Prints a table and writes it and all numbers to the folder ``--out``."""
  parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy.momentum")
  parser.add_argument("--out", type=Path, default=Path("benchmarks/results/momentum"))
  parser.add_argument("--seeds", type=int, default=5)
  parser.add_argument(
    "--rounds", type=int, default=15, help="repetitions of every timing"
  )
  args = parser.parse_args()

  summary: dict[str, Any] = {
    "command": shlex.join(
      ["python", "-m", "benchmarks.accuracy.momentum", *sys.argv[1:]]
    ),
    "seeds": args.seeds,
    "rounds": args.rounds,
    "machine": describe_machine(),
    "errors": [],
    "seconds": [],
  }
  cases = list(itertools.product(GAMMAS, NOISES))
  for gamma, noise in tqdm(cases, unit="case", dynamic_ncols=True):
    errors = [follow(gamma, noise, seed) for seed in range(args.seeds)]
    for kind in KINDS:
      found = [error[kind] for error in errors]
      summary["errors"].append(
        {
          "kind": kind,
          "gamma": gamma,
          "noise": noise,
          "mean": float(np.mean(found)),
          "standard_error": float(np.std(found) / np.sqrt(len(found))),
        }
      )
  runs: dict[str, Any] = {kind: timed(kwargs) for kind, kwargs in KINDS.items()}
  with tqdm(total=args.rounds, unit="round", dynamic_ncols=True) as progress:
    seconds = interleave(runs, args.rounds, progress.update)
  for kind, of_kind in seconds.items():
    times = {"kind": kind, **summarise(of_kind)}
    times["ratio_to_float32"] = ratio(of_kind, seconds["float32"])
    summary["seconds"].append(times)

  table = tabulate(
    [
      [
        time["kind"],
        *(f"{e['mean']:.1e}" for e in summary["errors"] if e["kind"] == time["kind"]),
        f"{time['ratio_to_float32']:.2f}",
      ]
      for time in summary["seconds"]
    ],
    ["momentum", *(f"γ = {gamma}, σ = {noise:g}" for gamma, noise in cases), "time"],
    tablefmt="github",
    disable_numparse=True,
  )
  print(table)
  args.out.mkdir(parents=True, exist_ok=True)
  (args.out / "table.md").write_text(table + "\n")
  (args.out / "results.json").write_text(json.dumps(summary, indent=1) + "\n")


def follow(gamma: float, noise: float, seed: int) -> dict[str, float]:
  """Measures the relative rounding errors of all kinds of momentum.

  Each error is the root mean square over the last fifth of the steps. The momentum in
  float64 averages the same gradients, so gradient noise does not count as error.
  """
  steps = int(10 / (1 - gamma))
  rng = np.random.default_rng(seed)
  means = rng.normal(size=(2, TASKS, SIZE)).astype(np.float32)
  txs = {k: maxgnr(gamma, num_tasks=TASKS, **kwargs) for k, kwargs in KINDS.items()}

  @jax.jit
  def step(grads, states):
    return {k: tx.update(grads, states[k])[1] for k, tx in txs.items()}

  states = {k: tx.init(jnp.zeros(SIZE)) for k, tx in txs.items()}
  squares: dict[str, list[float]] = {kind: [] for kind in KINDS}
  exact = None
  for t in range(steps):
    drawn = rng.normal(size=(TASKS, SIZE)).astype(np.float32)
    grads = means[int(2 * t >= steps)] + np.float32(noise) * drawn
    states = step(jnp.asarray(grads), states)
    wide = grads.astype(np.float64)
    exact = wide if exact is None else gamma * exact + (1 - gamma) * wide
    if t >= 0.8 * steps:
      for kind, state in states.items():
        error = np.asarray(state.momentum, np.float64) - exact
        squares[kind].append(np.sum(error**2) / np.sum(exact**2))
  return {kind: float(np.sqrt(np.mean(found))) for kind, found in squares.items()}


def timed(kwargs: dict[str, Any]) -> Run:
  """Compiles the update of a problem that is large enough to be timed."""
  tasks, size = TIMED
  tx = maxgnr(num_tasks=tasks, **kwargs)
  grads = jax.random.normal(jax.random.key(0), (tasks, size))
  return Run(lambda state, g: tx.update(g, state), tx.init(grads[0]), grads)


if __name__ == "__main__":
  main()
