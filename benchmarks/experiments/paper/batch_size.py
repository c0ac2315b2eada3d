"""Figure 2: how a batch's size, and so its noise, changes a single-task model.

``python -m benchmarks.experiments.paper.batch_size`` trains a small classifier on
scikit-learn's digits, and with ``--data FILE`` on Fashion-MNIST, one of the paper's
data sets. The paper does not say whether a larger batch has fewer steps, so both are
measured: the same number of passes over the data, and the same number of steps.
"""

import dataclasses
import json
import shlex
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from tabulate import tabulate
from tqdm import tqdm

from benchmarks.experiments.metric import mean_and_error
from benchmarks.experiments.model import CompiledOnce
from benchmarks.experiments.problems.fashion.data import load
from benchmarks.machine import describe_machine

HIDDEN = 64
_BUDGETS = {"passes": "as many passes over the data", "steps": "as many steps"}


class Classified(NamedTuple):
  """N examples [N, D] in [0, 1] and their classes [N]."""

  x: jax.Array
  label: jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
  """Figure 2: accuracy of a single-task model against the size of its batches."""

  data: Path | None = None
  """Fashion-MNIST as an .npz file; default: scikit-learn's digits."""
  out: Path = Path("out/batch_size")
  """Folder for the figure, the table and the results."""
  batch_sizes: tuple[int, ...] = (2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
  """Sizes to compare."""
  passes: int = 15
  """Passes over the training examples."""
  steps: int = 1_000
  """Steps of every size, in the comparison of equal steps."""
  train: int = 8_000
  """Training examples, at most."""
  learning_rate: float = 1e-3
  """Adam's learning rate, the same for all sizes so that only the noise changes."""
  seeds: int = 5
  """Runs per size."""


def examples(settings: Settings) -> tuple[str, Classified, Classified]:
  """Loads the data: their name, examples to train on and examples to test on."""
  if settings.data is None:
    name, digits = "digits", load_digits()
    image, label = digits.images / digits.images.max(), digits.target
    order = np.random.default_rng(0).permutation(len(label))
    splits = np.split(order, [int(0.7 * len(order))])
    parts = [(image[rows], label[rows]) for rows in splits]
  else:
    name = "Fashion-MNIST"
    parts = [(images.image / 255, images.label) for images in load(settings.data)]
  train, test = (
    Classified(
      jnp.asarray(image.reshape(len(image), -1), jnp.float32), jnp.asarray(label)
    )
    for image, label in parts
  )
  rows = np.random.default_rng(1).permutation(len(train.label))[: settings.train]
  return name, Classified(train.x[rows], train.label[rows]), test


def make_run(
  train: Classified, test: Classified, size: int, steps: int, learning_rate: float
) -> CompiledOnce:
  """Makes a function from a PRNG key to a trained model's test accuracy in percent."""
  adam = optax.adam(learning_rate)
  number, inputs = train.x.shape
  classes = int(max(train.label.max(), test.label.max())) + 1

  def logits(params, x):
    hidden = jax.nn.relu(x @ params["first"] + params["bias"])
    return hidden @ params["second"]

  def loss(params, rows):
    values = optax.softmax_cross_entropy_with_integer_labels(
      logits(params, train.x[rows]), train.label[rows]
    )
    return values.mean()

  def run(key):
    keys = jax.random.split(key, 3)
    initial = jax.nn.initializers.he_normal()
    params = {
      "first": initial(keys[0], (inputs, HIDDEN)),
      "bias": jnp.zeros((1, HIDDEN)),
      "second": initial(keys[1], (HIDDEN, classes)),
    }

    def step(carry, key):
      params, state = carry
      rows = jax.random.randint(key, (size,), 0, number)
      updates, state = adam.update(jax.grad(loss)(params, rows), state)
      return (optax.apply_updates(params, updates), state), None

    carry = (params, adam.init(params))
    (params, _), _ = jax.lax.scan(step, carry, jax.random.split(keys[2], steps))
    return 100 * jnp.mean(logits(params, test.x).argmax(1) == test.label)

  return CompiledOnce(run)


def measure(settings: Settings) -> dict[str, Any]:
  """Measures accuracies by budget, batch size and seed, and records the settings.

  Raises:
    ValueError: if a batch would be larger than the data.
  """
  name, train, test = examples(settings)
  number = len(train.label)
  sizes = [size for size in settings.batch_sizes if size <= number]
  if not sizes or min(sizes) < 1:
    raise ValueError(
      f"batch sizes must be from 1 to the {number} examples, got "
      f"{', '.join(map(str, settings.batch_sizes))}"
    )
  budgets = {
    "passes": lambda size: settings.passes * number // size,
    "steps": lambda size: settings.steps,
  }
  jobs = [
    (budget, size, seed)
    for budget in budgets
    for size in sizes
    for seed in range(settings.seeds)
  ]

  runs = {
    (budget, size): make_run(train, test, size, steps(size), settings.learning_rate)
    for budget, steps in budgets.items()
    for size in sizes
  }

  def do(job: tuple[str, int, int]) -> float:
    budget, size, seed = job
    return float(runs[budget, size](jax.random.key(seed)))

  with ThreadPoolExecutor() as pool:
    done = pool.map(do, jobs)
    values = list(tqdm(done, total=len(jobs), unit="run", dynamic_ncols=True))
  accuracy: dict[str, dict[str, list[float]]] = {budget: {} for budget in budgets}
  for (budget, size, _), value in zip(jobs, values, strict=True):
    accuracy[budget].setdefault(str(size), []).append(value)
  fields = dataclasses.asdict(settings)
  del fields["data"], fields["out"]
  return {
    "command": shlex.join(
      ["python", "-m", "benchmarks.experiments.paper.batch_size", *sys.argv[1:]]
    ),
    "data": name,
    "train": number,
    "test": len(test.label),
    "settings": json.loads(json.dumps(fields)),
    "machine": describe_machine(),
    "accuracy": accuracy,
  }


def table(summary: dict[str, Any]) -> str:
  """Formats test accuracies, mean ± standard error over seeds, as Markdown."""
  sizes = summary["accuracy"]["passes"]
  rows = [
    [size, *(mean_and_error(summary["accuracy"][b][size], 2) for b in _BUDGETS)]
    for size in sizes
  ]
  header = ["batch size", *(f"accuracy %, {text}" for text in _BUDGETS.values())]
  return tabulate(rows, header, tablefmt="github", disable_numparse=True)


def draw(summary: dict[str, Any], path: Path) -> None:
  """Draws a line for each budget, and a dot for each seed."""
  figure = Figure(figsize=(6.5, 3.8), layout="constrained")
  ax = figure.add_subplot()
  for colour, (budget, text) in zip(
    ("tab:blue", "tab:orange"), _BUDGETS.items(), strict=True
  ):
    accuracy = summary["accuracy"][budget]
    sizes = [int(size) for size in accuracy]
    ax.plot(sizes, [np.mean(v) for v in accuracy.values()], color=colour, label=text)
    for size, values in zip(sizes, accuracy.values(), strict=True):
      ax.plot([size] * len(values), values, ".", color=colour, alpha=0.4)
  ax.set_xscale("log", base=2)
  ax.set(
    xlabel="batch size (more noise on the left)",
    ylabel="test accuracy, %",
    title=f"single-task model, {summary['data']}",
  )
  ax.grid(alpha=0.3)
  ax.legend()
  figure.savefig(path, dpi=110)


def main(settings: Settings) -> dict[str, Any]:
  """Trains, and writes ``batch_size.png``, ``table.md`` and ``results.json``."""
  settings.out.mkdir(parents=True, exist_ok=True)
  summary = measure(settings)
  draw(summary, settings.out / "batch_size.png")
  (settings.out / "table.md").write_text(table(summary) + "\n")
  (settings.out / "results.json").write_text(json.dumps(summary, indent=1) + "\n")
  return summary


if __name__ == "__main__":
  try:
    print(
      table(
        main(
          tyro.cli(Settings, prog="python -m benchmarks.experiments.paper.batch_size")
        )
      )
    )
  except ValueError as error:
    sys.exit(f"python -m benchmarks.experiments.paper.batch_size: {error}")
