"""Runs PyTorch and TorchJD in an environment of their own, one order at a time.

Reads orders from the standard input, a JSON object each, and answers with one line:
``{"setup": [K, D, numbers to copy]}`` with what it can run, ``{"run": name}`` with
seconds. The library and JAX are not needed here.
"""

import functools
import json
import sys
import time

import torch

try:
  from torchjd import aggregation
except ImportError:
  aggregation = None

# TorchJD's counterpart of each method for K tasks, with its defaults if it has any.
COUNTERPARTS = {
  "equal_weights": lambda k: aggregation.Mean(),
  "mgda": lambda k: aggregation.MGDA(),
  "upgrad": lambda k: aggregation.UPGrad(),
  "dualproj": lambda k: aggregation.DualProj(),
  "imtl_g": lambda k: aggregation.IMTLG(),
  "aligned_mtl": lambda k: aggregation.AlignedMTL(),
  "cagrad": lambda k: aggregation.CAGrad(c=0.5),
  "nash_mtl": lambda k: aggregation.NashMTL(n_tasks=k),
  "fairgrad": lambda k: aggregation.FairGrad(alpha=1.0),
  "config": lambda k: aggregation.ConFIG(),
  "pcgrad": lambda k: aggregation.PCGrad(),
  "gradvac": lambda k: aggregation.GradVac(),
  "graddrop": lambda k: aggregation.GradDrop(),
  "krum": lambda k: aggregation.Krum(n_byzantine=0),
  "trimmed_mean": lambda k: aggregation.TrimmedMean(trim_number=1),
  "random_weights": lambda k: aggregation.Random(),
  "excess_mtl": lambda k: aggregation.ExcessMTL(),
}


def main() -> None:
  """Answers orders until the input ends."""
  runs: dict = {}
  for line in sys.stdin:
    order = json.loads(line)
    if "setup" in order:
      runs = make_runs(*order["setup"])
      answer: object = list(runs)
    else:
      answer = timed(runs[order["run"]])
    print(json.dumps(answer), flush=True)


def make_runs(tasks: int, parameters: int, copied: int) -> dict:
  """Makes the functions that run on K gradients of D parameters."""
  source, target = torch.randn(copied), torch.empty(copied)
  runs = {"copy": functools.partial(target.copy_, source)}
  if aggregation is not None:
    matrix = torch.randn(tasks, parameters)
    for name, make in COUNTERPARTS.items():
      try:
        aggregator = make(tasks)
        aggregator(matrix[:, :10])
      except (ImportError, AttributeError, ValueError):
        continue  # an optional dependency, or a version without it
      runs[name] = functools.partial(aggregator, matrix)
  return runs


def timed(run) -> float:
  """Times one run in seconds."""
  with torch.no_grad():
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


if __name__ == "__main__":
  main()
