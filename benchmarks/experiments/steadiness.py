"""Watches how steady a method's steps are: its weights, and its updates of the trunk.

``python -m benchmarks.experiments PROBLEM steadiness`` reads a finished sweep, trains
some of its rows again at their rates, and draws how far their weights jump from step to
step and how much of the trunk's update is noise.
"""

import dataclasses
import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from tabulate import tabulate
from tqdm import tqdm

from benchmarks.experiments.config import ManyRuns, Run
from benchmarks.experiments.loading import stream
from benchmarks.experiments.metric import mean_and_error
from benchmarks.experiments.model import Model
from benchmarks.experiments.runner import Runner
from benchmarks.experiments.step import RunState, Trainer
from benchmarks.experiments.sweep import command, joint_rows, read_summary
from benchmarks.machine import describe_machine

_LEAST_WEIGHT = 1e-6  # smaller ones, and weights of 0, count as this


@dataclasses.dataclass(frozen=True, kw_only=True)
class Steadiness:
  """Watch the weights and the updates of some of a sweep's rows, step by step."""

  data: Path | None = None
  """The data of the sweep; a problem without files has none."""
  out: Path = Path("out/run")
  """The sweep's folder."""
  methods: tuple[str, ...] = ("maxgnr-0.9", "maxgnr-0.9-smoothed-0.9")
  """Rows of the sweep."""
  seeds: int = 3
  """Runs per row."""

  def __post_init__(self) -> None:
    """Checks the settings before anything is loaded."""
    if self.seeds < 1:
      raise ValueError(f"seeds must be at least 1, got {self.seeds}")


class Sums(NamedTuple):
  """Sums over the steps of an epoch.

  Attributes:
    jump: []. Mean over tasks of ``|log w_k - log w_k of the step before|``.
    update: Of the trunk's parameters, a list of arrays.
    square: []. Squared norm of that update.
  """

  jump: jax.Array
  update: list[jax.Array]
  square: jax.Array


def steadiness(
  model: Model, options: Steadiness, settings: ManyRuns, kind: type[Run]
) -> str:
  """Writes ``steadiness.json``, ``.md`` and ``.png`` to ``options.out``.

  Args:
    model: What is trained.
    options: The rows, and the sweep's folder.
    settings: Those of the sweep.
    kind: The settings of one run, which have those of the problem.

  Returns:
    The table.

  Raises:
    ValueError: if the sweep lacks one of the rows.
  """
  summary = read_summary(options.out)
  rows = joint_rows(summary, options.methods)
  runner = Runner(model, settings, kind)
  found = {}
  with tqdm(total=len(rows) * options.seeds, unit="run", dynamic_ncols=True) as bar:
    for name, row in rows.items():
      trainer, rate = runner.trainer(row), summary["rows"][name]["learning_rate"]
      watched = []
      for seed in range(options.seeds):
        state = trainer.init(seed, rate, row.weights)
        watched.append(watch(trainer, state, seed, settings.epochs))
        bar.update()
      found[name] = {
        "learning_rate": rate,
        **{
          key: [[row[key] for row in run] for run in watched] for key in watched[0][0]
        },
      }
  whole = {
    "command": command(),
    "machine": describe_machine(),
    "problem": summary["problem"],
    "optimizer": settings.optimizer,
    "rows": found,
  }
  text = markdown(summary, whole)
  draw(whole, options.out / "steadiness.png")
  (options.out / "steadiness.json").write_text(json.dumps(whole, indent=1) + "\n")
  (options.out / "steadiness.md").write_text(text + "\n")
  return text


def watch(
  trainer: Trainer, state: RunState, seed: int, epochs: int
) -> list[dict[str, float]]:
  """Trains from a state, and returns what was seen in each epoch.

  Returns:
    For each epoch, ``jump`` and ``update_gnr``. ``jump`` says how far the logarithm of
    a weight moves from one step to the next, as a mean over steps and tasks.
    ``update_gnr`` compares the trunk's updates with their noise: it is the squared norm
    of their mean, divided by their variance, both estimated without bias.
  """
  is_trunk = jax.tree.leaves(trainer.problem.trunk_only(state.params))

  def trunk(params: Any) -> list[jax.Array]:
    return list(itertools.compress(jax.tree.leaves(params), is_trunk))

  def step(carry, batch):
    state, last, sums = carry
    before = trunk(state.params)
    state, (_, weights) = trainer.traced_step(state, batch)
    logs = jnp.log(jnp.maximum(weights, _LEAST_WEIGHT))
    update = [
      after - old for after, old in zip(trunk(state.params), before, strict=True)
    ]
    jump = jnp.where(jnp.isfinite(last), jnp.abs(logs - last), 0).mean()
    sums = Sums(
      sums.jump + jump,
      [total + one for total, one in zip(sums.update, update, strict=True)],
      sums.square + sum(jnp.sum(one**2) for one in update),
    )
    return (state, logs, sums), None

  def many(carry, batches):
    return jax.lax.scan(step, carry, batches)[0]

  take, per_call = jax.jit(many, donate_argnums=0), trainer.steps_per_call
  batches = trainer.problem.train_batches(trainer.batch_size, seed)
  per_epoch = trainer.steps_per_epoch

  def nothing() -> Sums:
    # One array each: a call gives up the memory of every one.
    update = [jnp.zeros_like(x) for x in trunk(state.params)]
    return Sums(jnp.zeros(()), update, jnp.zeros(()))

  last = jnp.full(len(trainer.tasks), jnp.nan)  # before the first step there are none
  carry, seen = (state, last, nothing()), []
  stacked = stream(batches, 0, epochs * per_epoch, per_call)
  for done, batch in zip(itertools.count(per_call, per_call), stacked):
    carry = take(carry, _stacked(trainer, batch))
    if done % per_epoch == 0:
      state, last, sums = carry
      seen.append(_epoch(sums, per_epoch))
      carry = (state, last, nothing())
  return seen


def _stacked(trainer: Trainer, batch: Any) -> Any:
  """Puts batches on the devices, with a leading axis also if there is only one."""
  if trainer.steps_per_call == 1:
    batch = jax.tree.map(lambda x: x[None], batch)
  return trainer.model.on_devices(batch, stacked=True)


def _epoch(sums: Sums, steps: int) -> dict[str, float]:
  square = float(sums.square) / steps
  of_mean = sum(float(jnp.sum(total**2)) for total in sums.update) / steps**2
  noise = (square - of_mean) * steps / max(1, steps - 1)
  signal = max(of_mean - noise / steps, 0.0)
  return {
    "jump": float(sums.jump) / steps,
    "update_gnr": signal / noise if noise > 0 else float("inf"),
  }


def markdown(summary: Mapping[str, Any], whole: Mapping[str, Any]) -> str:
  """Formats a row per method: means over all epochs and seeds, beside its Δm."""
  lines = []
  for name, row in whole["rows"].items():
    gnr = np.maximum(row["update_gnr"], 1e-9)
    lines.append(
      [
        name,
        f"{np.mean(row['jump']):.3f}",
        f"{np.exp(np.mean(np.log(gnr))):.4f}",
        mean_and_error(summary["rows"][name]["delta_m"]["last"], 1),
        f"{row['learning_rate']:g}",
      ]
    )
  header = [
    "method",
    "jump of log w a step",
    "GNR of the trunk's update",
    "Δm % ↑",
    "learning rate",
  ]
  table = tabulate(lines, header, tablefmt="github", disable_numparse=True)
  runs = len(next(iter(whole["rows"].values()))["jump"])
  return (
    f"{whole['problem']}, {whole['optimizer']}; means over all steps of {runs} runs, "
    f"those of the GNR geometric:\n\n{table}"
  )


def draw(whole: Mapping[str, Any], path: Path) -> None:
  """Draws both quantities over the epochs, a line per method, a band over seeds."""
  figure = Figure(figsize=(10, 4.4), layout="constrained")
  axes = figure.subplots(1, 2)
  titles = {
    "jump": "how far log w moves in a step, mean of the epoch",
    "update_gnr": "gradient-to-noise ratio of the trunk's update",
  }
  for ax, (key, title) in zip(axes, titles.items(), strict=True):
    colours = itertools.cycle(mpl.color_sequences["tab10"])
    for name, row in whole["rows"].items():
      values, colour = np.array(row[key]), next(colours)
      epochs = np.arange(1, values.shape[1] + 1)
      ax.plot(epochs, values.mean(0), color=colour, label=name)
      band = (values.min(0), values.max(0))
      ax.fill_between(epochs, *band, color=colour, alpha=0.2, lw=0)
    ax.set(yscale="log", xlabel="epoch")
    ax.set_title(title, fontsize="medium")
    ax.grid(alpha=0.3)
  handles, labels = axes[0].get_legend_handles_labels()
  figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize="small")
  figure.suptitle(f"{whole['problem']}, {whole['optimizer']}", fontsize="medium")
  figure.savefig(path, dpi=100)
