"""Draws how the GNR of two tasks depends on their weights, for docs/how-it-works.md.

``python -m benchmarks.illustration`` writes ``docs/pictures/two_tasks.png``. The
gradient and the noise of the second task are 20 times smaller than those of the first.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from maxgnr_jax import GradientStats, projected_newton, task_gnr

PICTURE = Path(__file__).parents[1] / "docs" / "pictures" / "two_tasks.png"
COSINES = {"noises without correlation": 0.0, "noises that oppose each other": -0.8}


def draw() -> Figure:
  """Draws a panel for each cosine between the noises."""
  shares = 1 / (1 + np.exp(-np.linspace(-7, 4, 200)))  # even on a logistic scale
  figure = Figure(figsize=(9, 3.6), layout="constrained")
  axes = figure.subplots(1, len(COSINES), sharey=True)
  for ax, (title, cosine) in zip(axes, COSINES.items(), strict=True):
    noise_cosine = jnp.array([[1.0, cosine], [cosine, 1.0]])
    stats = GradientStats(jnp.array([1, 0.05]), jnp.array([2, 0.1]), noise_cosine)
    weights = jnp.stack([shares, 1 - shares], axis=1)
    gnr = jax.vmap(task_gnr, in_axes=(0, None))(weights, stats)
    for task, colour in enumerate(("tab:blue", "tab:orange")):
      ax.plot(shares, gnr[:, task], color=colour, label=f"task {task + 1}")
    best = projected_newton().solve(stats)
    ax.plot(best[0], jnp.min(task_gnr(best, stats)), "o", color="tab:red", zorder=3)
    ax.axvline(best[0], color="tab:red", label="MaxGNR")
    ax.axvline(0.5, color="black", ls="--", label="equal weights")
    ax.set(title=title, xscale="logit", yscale="log", xlabel="weight of task 1")
    ax.grid(alpha=0.3)
  axes[0].set_ylabel("gradient-to-noise ratio")
  axes[0].legend(loc="lower left")
  return figure


if __name__ == "__main__":
  draw().savefig(PICTURE, dpi=120)
