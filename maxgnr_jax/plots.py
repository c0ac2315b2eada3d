"""Pictures of what is measured; needs ``pip install 'maxgnr-jax[plots]'``."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from maxgnr_jax._gnr import GradientStats
from maxgnr_jax._interference import interference
from maxgnr_jax._task_names import check_has_no_names

if TYPE_CHECKING:
  from matplotlib.axes import Axes


def plot_interference(
  stats: GradientStats,
  weights: jax.typing.ArrayLike | None = None,
  names: Sequence[str] | None = None,
  ax: "Axes | None" = None,
) -> "Axes":
  """Draws who disturbs whom: a heat map of :func:`maxgnr_jax.interference`.

  Row k shows the noise that task k learns through, by the task that it comes from, in
  units of task k's own gradient. The scale is logarithmic.

  Args:
    stats: Statistics of the K tasks, as for :func:`maxgnr_jax.interference`.
    weights: [K], those of the update. Default: equal weights.
    names: Names of the K tasks, in the order of the stacked gradients. Default: "0",
      "1" and so on.
    ax: Axes to draw into. Default: those of a new figure.

  Returns:
    The matplotlib axes. Ratios that are 0 or infinite are left white.

  Raises:
    ImportError: if matplotlib is not installed.
    ValueError: if ``names`` or ``weights`` are not K.

  Example:
    >>> import jax.numpy as jnp
    >>> from maxgnr_jax import GradientStats
    >>> from maxgnr_jax.plots import plot_interference
    >>> stats = GradientStats(
    ...     jnp.array([2.0, 1.0]), jnp.array([1.0, 2.0]), jnp.eye(2)
    ... )
    >>> ax = plot_interference(stats, names=["depth", "edges"])
    >>> ax.get_xlabel()
    'noise of'
  """
  try:
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure
  except ImportError as error:
    raise ImportError(
      "`plot_interference` needs matplotlib. Install it with "
      "`pip install 'maxgnr-jax[plots]'`."
    ) from error
  ratio = np.asarray(interference(stats, weights), np.float64)
  number = len(ratio)
  check_has_no_names("names", names)
  labels = [str(k) for k in range(number)] if names is None else list(names)
  if len(labels) != number:
    raise ValueError(f"`names` must be one per task, {number}, got {labels}.")
  if ax is None:
    side = 1.5 + 0.6 * number
    ax = Figure(figsize=(side + 1, side), layout="constrained").add_subplot()
  shown: Any = np.ma.masked_where((ratio <= 0) | ~np.isfinite(ratio), ratio)
  # The colours are centred on 1, where the noise is as long as the gradient.
  reach = max([1.1, *shown.compressed(), *(1.0 / shown.compressed())])
  image = ax.imshow(shown, cmap="RdBu_r", norm=LogNorm(1 / reach, reach))
  ax.set(xlabel="noise of", ylabel="gradient of", title="squared noise to gradient")
  ax.set_xticks(range(number), labels, rotation=45, ha="right")
  ax.set_yticks(range(number), labels)
  for (row, column), value in np.ndenumerate(ratio):
    dark = abs(np.log(value)) > 0.6 * np.log(reach) if 0 < value < np.inf else False
    colour = "white" if dark else "black"
    ax.text(column, row, f"{value:.2g}", ha="center", va="center", color=colour)
  ax.figure.colorbar(image, ax=ax)
  return ax
