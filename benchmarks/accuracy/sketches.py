"""Measures how far updates move when methods measure sketches of the gradients.

``python -m benchmarks.accuracy.sketches`` compares each method's update of the fourth
step with ``sketch=`` and without. Gradients of K tasks are those of a weight matrix and
a bias, 98,688 numbers, from a few examples: a common part, with a random factor for
each task, a part of each task, and noise of each step. They are mixed so that they are
nearly opposed or nearly dependent, and scaled so that norms spread over an order of
magnitude around 1.

A method sees nothing of gradients but their inner products, and the sketch of a mixture
is the mixture of sketches. So gradients are sketched before they are mixed, and methods
are given short vectors with the same inner products, in float64: what is measured is
the error of sketches, without rounding.
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
from maxgnr_jax import _stacked, aggregators, maxgnr

NUM_TASKS = (3, 10)
SIZES = (127, 1_021, 16_381, 65_521)
SHOWN = 16_381
STEPS = 4
INPUTS, OUTPUTS, EXAMPLES = 256, 384, 16
# Condition numbers of Gramians, if all gradients had the same norm and were independent
# before they are mixed.
CONDITIONS = (1e3, 1e6)
KINDS: dict[str, tuple[str, float] | None] = {
  "independent": None,
  **{
    f"{name}, {condition:.0e}": (name, condition)
    for name, condition in itertools.product(("opposed", "dependent"), CONDITIONS)
  },
}


def signs(num_tasks: int) -> list[int]:
  """Returns 1 for tasks that NGDiff learns, -1 for one that it unlearns."""
  return [1] * (num_tasks - 1) + [-1]


# Maps each method to a function from K to the transformation.
METHODS = {
  "maxgnr": lambda k: maxgnr(num_tasks=k),
  "maxgnr, noise_decay=0.9": lambda k: maxgnr(num_tasks=k, noise_decay=0.9),
  "aligned_mtl": lambda k: aggregators.aligned_mtl(num_tasks=k),
  "cagrad": lambda k: aggregators.cagrad(num_tasks=k),
  "config": lambda k: aggregators.config(num_tasks=k),
  "conicgrad": lambda k: aggregators.conicgrad(num_tasks=k),
  "dualproj": lambda k: aggregators.dualproj(num_tasks=k),
  "fairgrad": lambda k: aggregators.fairgrad(2.0, num_tasks=k),
  "gradient_norm_scaling": lambda k: aggregators.gradient_norm_scaling(num_tasks=k),
  "gradnorm": lambda k: aggregators.gradnorm(num_tasks=k),
  "gradvac": lambda k: aggregators.gradvac(num_tasks=k),
  "imtl_g": lambda k: aggregators.imtl_g(num_tasks=k),
  "krum": lambda k: aggregators.krum(num_tasks=k),
  "mgda": lambda k: aggregators.mgda(num_tasks=k),
  "modo": lambda k: aggregators.modo(num_tasks=k),
  "nash_mtl": lambda k: aggregators.nash_mtl(num_tasks=k),
  "ngdiff": lambda k: aggregators.ngdiff(signs(k)),
  "pcgrad": lambda k: aggregators.pcgrad(num_tasks=k),
  "sdmgrad": lambda k: aggregators.sdmgrad(num_tasks=k),
  "sdmgrad, learning_rate=0.1": lambda k: aggregators.sdmgrad(
    learning_rate=0.1, num_tasks=k
  ),
  "upgrad": lambda k: aggregators.upgrad(num_tasks=k),
}


def main() -> None:
  """Prints tables and writes them and all numbers to ``sketches/``."""
  parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy.sketches")
  parser.add_argument("--out", type=Path, default=Path("benchmarks/results/sketches"))
  parser.add_argument("--draws", type=int, default=50, help="of gradients")
  args = parser.parse_args()

  jax.config.update("jax_enable_x64", True)
  drawn = {k: [draw(k, seed) for seed in range(args.draws)] for k in NUM_TASKS}
  cases = list(itertools.product(NUM_TASKS, METHODS))
  errors = [
    entry
    for k, name in tqdm(cases, unit="method", dynamic_ncols=True)
    for entry in measure(name, k, np.stack(drawn[k]))
  ]
  summary = {
    "command": shlex.join(
      ["python", "-m", "benchmarks.accuracy.sketches", *sys.argv[1:]]
    ),
    "draws": args.draws,
    "machine": describe_machine(),
    "update": "‖u_sketch - u_exact‖ / ‖u_exact‖ of the fourth step",
    "weights": "‖w_sketch - w_exact‖ / ‖w_exact‖ of the fourth step",
    "errors": errors,
  }
  args.out.mkdir(parents=True, exist_ok=True)
  text = json.dumps(summary, indent=1, ensure_ascii=False)
  (args.out / "results.json").write_text(text + "\n")
  (args.out / "table.md").write_text(tables(errors) + "\n")
  print(tables(errors))


def draw(num_tasks: int, seed: int) -> np.ndarray:
  """Draws gradients, and returns short vectors in their place.

  Returns:
    [1 + sizes, T, K, T K], with the inner products of gradients, then of sketches.
  """
  rng = np.random.default_rng([seed, num_tasks])

  def gradients(*shape: int) -> dict[str, np.ndarray]:
    before, after = (
      rng.standard_normal((*shape, EXAMPLES, n)) for n in (INPUTS, OUTPUTS)
    )
    return {"bias": after.sum(-2), "kernel": before.swapaxes(-1, -2) @ after}

  common, own, noise = gradients(), gradients(num_tasks), gradients(STEPS, num_tasks)
  factor = rng.standard_normal(num_tasks)

  def task_gradients(name: str) -> jax.Array:
    shared = np.multiply.outer(factor, common[name])
    drawn = np.concatenate(shared + own[name] + noise[name])
    return jnp.asarray(drawn / np.sqrt(INPUTS * OUTPUTS * EXAMPLES), jnp.float32)

  stacked = {name: task_gradients(name) for name in common}
  exact = np.concatenate(
    [np.asarray(x, np.float64).reshape(len(x), -1) for x in stacked.values()], axis=1
  )
  seen = [exact, *(np.asarray(sketched(stacked, size), np.float64) for size in SIZES)]
  short = np.stack([np.linalg.cholesky(x @ x.T) for x in seen])
  return short.reshape(len(seen), STEPS, num_tasks, -1)


@jax.jit(static_argnums=1)
def sketched(stacked: Any, size: int) -> jax.Array:
  """Sketches stacked gradients, [K, size]."""
  return _stacked.sketch(stacked, size, jnp.float32)


def mixture(kind: str, num_tasks: int, seed: int) -> np.ndarray:
  """Returns how tasks' gradients are made of those that were drawn, [K, K]."""
  rng = np.random.default_rng(seed)
  scale = 10 ** rng.uniform(-0.5, 0.5, num_tasks)
  mixed = KINDS[kind]
  if mixed is None:
    return np.diag(scale)
  name, condition = mixed
  # The weighted sum of gradients with these weights nearly vanishes.
  weights = rng.uniform(0.5, 1.5, num_tasks)
  if name == "dependent":
    weights *= rng.permutation(np.resize([1, -1], num_tasks))
  weights /= np.linalg.norm(weights)
  left = 1 / np.sqrt(condition)
  return scale[:, None] * (np.eye(num_tasks) - (1 - left) * np.outer(weights, weights))


def measure(name: str, num_tasks: int, short: np.ndarray) -> list[dict]:
  """Measures a method's errors over all kinds of gradients and sizes of sketches.

  Args:
    name: The method.
    num_tasks: K.
    short: [N, 1 + sizes, T, K, T K], for N draws.
  """
  tx = METHODS[name](num_tasks)

  @jax.jit
  @jax.vmap
  @jax.vmap
  def last_weights(vectors: jax.Array) -> jax.Array:
    state = tx.init(vectors[0, 0])
    losses = jnp.linspace(1.0, 2.0, num_tasks)

    def step(state: Any, grads: jax.Array) -> tuple[Any, None]:
      return tx.update(grads, state, losses=losses)[1], None

    return jax.lax.scan(step, state, vectors)[0].weights

  entries = []
  for kind in KINDS:
    mixtures = np.stack([mixture(kind, num_tasks, n) for n in range(len(short))])
    vectors = mixtures[:, None, None] @ short
    weights = np.asarray(last_weights(jnp.asarray(vectors)))
    updates = np.einsum("nsk,nkd->nsd", weights, vectors[:, 0, -1])
    moved = {"update": distance(updates), "weights": distance(weights)}
    for number, size in enumerate(SIZES):
      entry = {"method": name, "tasks": num_tasks, "kind": kind, "size": size}
      for what, values in moved.items():
        # ConFIG finds no direction if gradients are too nearly dependent.
        known = not np.isnan(values).any()
        median, high = np.quantile(values[:, number], [0.5, 0.9])
        entry[f"{what}_median"] = float(median) if known else None
        entry[f"{what}_90"] = float(high) if known else None
      entries.append(entry)
  return entries


def distance(vectors: np.ndarray) -> np.ndarray:
  """Returns how far vectors are from the first, in units of its length.

  Args:
    vectors: [N, 1 + sizes, D].

  Returns:
    [N, sizes], NaN where the first is 0.
  """
  exact = vectors[:, :1]
  lengths = np.linalg.norm(exact, axis=-1)
  lengths = np.where(lengths > 0, lengths, np.nan)
  return np.linalg.norm(vectors[:, 1:] - exact, axis=-1) / lengths


def tables(errors: list[dict]) -> str:
  """Formats median errors and 90th percentiles, in per cent, as Markdown tables."""
  found = {(e["method"], e["tasks"], e["kind"], e["size"]): e for e in errors}

  def cell(what: str, *case: Any) -> str:
    values = [found[case][f"{what}_{part}"] for part in ("median", "90")]
    if None in values:
      return "no update"
    return ", ".join(f"{100 * value:.2f}" for value in values)

  parts = []
  for k in NUM_TASKS:
    for what in ("update", "weights"):
      rows = [
        [name, *(cell(what, name, k, s, SHOWN) for s in KINDS)] for name in METHODS
      ]
      parts += [
        f"K = {k}, {SHOWN:,} buckets: change of the {what} in per cent (median, 90th "
        "percentile)",
        markdown(rows, KINDS),
      ]
    rows = [
      [name, *(cell("update", name, k, "independent", size) for size in SIZES)]
      for name in METHODS
    ]
    parts += [
      f"K = {k}, independent gradients: change of the update by the number of buckets",
      markdown(rows, [f"{size:,}" for size in SIZES]),
    ]
  return "\n\n".join(parts)


def markdown(rows: list, columns: Any) -> str:
  """Formats a table with a row for each method."""
  return tabulate(rows, ["method", *columns], tablefmt="github", disable_numparse=True)


if __name__ == "__main__":
  main()
