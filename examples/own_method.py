"""Writes a method of one's own, and draws its way beside those of others.

``python examples/own_method.py --picture own.png`` divides each gradient by an average
of its length over some steps, which takes about twenty lines. The frame that all
methods share brings masks, finite checks, sharding and the rest. The problem has two
parameters, so that the ways can be seen: two noisy losses with minima at two points, of
which one is 20 times as steep as the other.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from matplotlib.figure import Figure

from maxgnr_jax import aggregators, maxgnr, value_and_task_grads
from maxgnr_jax.aggregators import Choice, Method, aggregator, remember

DECAY = 0.9


def init(params, shape, dtype):
  """Makes the memory before the first step: K sums of squares, and their weights."""
  return {"squares": jnp.zeros(shape, dtype), "total": jnp.zeros(shape, dtype)}


def measure(step, memory):
  """Returns numbers per task, and which tasks' gradients are finite."""
  squared_length = jnp.diagonal(step.gramian())
  return squared_length, jnp.isfinite(squared_length)


def choose(squared_length, active, memory):
  """Returns the weights [K], and the memory after the step."""
  seen = {"squares": squared_length, "total": jnp.ones_like(squared_length)}
  averaged = jax.tree.map(lambda old, new: DECAY * old + new, memory, seen)
  new = remember(active, averaged, memory)
  # A task that was never active has no average yet, and no weight in this step either.
  mean = new["squares"] / jnp.maximum(new["total"], 1.0)
  inverse = jnp.where(active, jax.lax.rsqrt(jnp.where(active, mean, 1.0)), 0.0)
  return Choice(inverse / jnp.maximum(jnp.sum(inverse), 1e-30), new)


def averaged_lengths(num_tasks=None, shared=None):
  return aggregator(Method(measure, choose, init), num_tasks=num_tasks, shared=shared)


AGGREGATORS = {
  "own method": averaged_lengths,
  "equal weights": aggregators.equal_weights,
  "MGDA": aggregators.mgda,
  "MaxGNR": maxgnr,
}
STARTS = np.array([[-1.8, 1.5], [0.2, -1.7], [1.8, 1.6]], np.float32)


def losses(point, noise):
  """Two bowls with minima at (-1, 0) and (1, 0), the second one 20 times as steep."""
  return {
    "flat": jnp.sum((point - jnp.array([-1.0, 0.0]) + noise[0]) ** 2),
    "steep": 20 * jnp.sum((point - jnp.array([1.0, 0.0]) + noise[1]) ** 2),
  }


def way(make, start, steps):
  """Returns the points [steps, 2] that training goes through."""
  tx = optax.chain(
    make(num_tasks=2), optax.adam(optax.cosine_decay_schedule(0.05, steps))
  )

  def step(carry, noise):
    point, state = carry
    _, grads = value_and_task_grads(losses)(point, noise)
    updates, state = tx.update(grads, state, point)
    return (optax.apply_updates(point, updates), state), point

  noises = 0.5 * jax.random.normal(jax.random.key(0), (steps, 2, 2))
  scan = jax.jit(lambda point: jax.lax.scan(step, (point, tx.init(point)), noises)[1])
  return np.asarray(scan(jnp.asarray(start)))


def draw(path, ways):
  figure = Figure(figsize=(9, 2.6), layout="constrained")
  axes = figure.subplots(1, len(ways), sharey=True)
  grid = np.stack(np.meshgrid(np.linspace(-2, 2, 60), np.linspace(-2, 2, 60)), axis=-1)
  for ax, (name, of_starts) in zip(axes, ways.items(), strict=True):
    for place, color in ((-1, "C0"), (1, "C1")):
      distance = np.hypot(grid[..., 0] - place, grid[..., 1])
      ax.contour(grid[..., 0], grid[..., 1], distance, 5, colors=color, linewidths=0.4)
      ax.plot(place, 0, "o", color=color)
    for points in of_starts:
      ax.plot(*points.T, color="k", lw=0.8)
      ax.plot(*points[-1], "k*", ms=9)
    ax.set(title=name, aspect="equal", xlim=(-2, 2), ylim=(-2, 2))
  figure.savefig(path, dpi=80)


def main(steps: int = 500, picture: Path | None = None) -> dict[str, list[np.ndarray]]:
  ways = {
    name: [way(make, start, steps) for start in STARTS]
    for name, make in AGGREGATORS.items()
  }
  for name, of_starts in ways.items():
    ends = [f"({x:.2f}, {y:.2f})" for x, y in (points[-1] for points in of_starts)]
    print(f"{name}: ends at", ", ".join(ends))
  if picture:
    draw(picture, ways)
  return ways


if __name__ == "__main__":
  tyro.cli(main)
