"""MaxGNR's state, beside the frame's."""

import functools
from typing import Any, NamedTuple

import jax
import optax

from maxgnr_jax._gnr import GradientStats, NoiseAverage, task_gnr
from maxgnr_jax.aggregators._method import AggregatorState


class MaxGNRState(NamedTuple):
  """State of :func:`maxgnr`.

  :func:`aggregator_state` finds it in the state of a whole optimiser.

  K-sized fields are float32, or float64 where the parameters are. Per-task fields
  describe the most recent step. Before the first, ``weights`` is uniform and the others
  are 0. With ``num_tasks=None`` K is 0 until the first step. With ``groups`` all
  K-sized fields but the counts have the groups on a leading axis, sorted by label (see
  :func:`group_names`).

  Attributes:
    count: [], int32. Number of updates.
    momentum: Pytree like the parameters, ``[K, *param.shape]`` in each leaf: the
      estimate of each task's expected gradient (Eq. 13).
      :class:`optax.MaskedNode` where ``shared`` is False. With ``sketch`` it is the
      momentum's sketch, [K, sketch], or [G, K, sketch] with G groups.
    weights: [K]. The task weights that made the update, non-negative, of sum 1 (Eq.
      17) unless ``rescale`` is given; 0 for inactive tasks.
    gnr: [K]. Each task's GNR under these weights (Eq. 9 with the estimates of Eq. 17);
      infinite without noise, as at the first step, where ``jax_debug_infs`` therefore
      raises an error; 0 for inactive tasks.
    single_task_gnr: [K]. The GNR that each task would have alone (Eq. 8); infinite
      without noise, 0 for inactive tasks.
    stats: :class:`GradientStats`, ``gradient_norm`` [K], ``noise_norm`` [K] and
      ``noise_cosine`` [K, K]: what the weights were chosen from; 0 for inactive tasks.
    task_count: [K], int32. Number of updates in which each task was active.
    notfinite_count: [K], int32. Number of updates in which each task was inactive
      because its gradient held NaN or infinity, or numbers whose squares overflow.
    zero_count: [K], int32. Number of updates in which each task was inactive because
      every number of its gradient was zero.
    noise: :class:`NoiseAverage` over the steps if ``noise_decay`` was given, else None.
    groups: Pytree like the parameters, without arrays: says which group each belongs
      to. None without ``groups``.
    trunk: Pytree like the parameters, without arrays: says which ``shared`` selected.
      None without ``sketch``, because the momentum tells.
    smoothed: [K], the average of the logarithms of the weights, up to a constant that
      all tasks share. None without ``smoothing``.
  """

  count: jax.Array  # type: ignore[assignment]
  momentum: optax.Updates
  weights: jax.Array
  gnr: jax.Array
  single_task_gnr: jax.Array
  stats: GradientStats
  task_count: jax.Array
  notfinite_count: jax.Array
  zero_count: jax.Array
  noise: NoiseAverage | None = None
  groups: Any = None
  trunk: Any = None
  smoothed: jax.Array | None = None


def own_state(state: AggregatorState, sketched: bool) -> MaxGNRState:
  """Names what MaxGNR keeps in the frame's memory."""
  assert state.weights is not None
  return MaxGNRState(
    count=state.count,
    weights=state.weights,
    gnr=_task_gnr(state.weights, state.memory["stats"]),
    task_count=state.task_count,
    notfinite_count=state.notfinite_count,
    zero_count=state.zero_count,
    groups=state.groups,
    trunk=state.trunk if sketched else None,
    smoothed=state.smoothed,
    **state.memory,
  )


# Compiled once, so that a step without `jax.jit` around it is fast.
@functools.partial(jax.jit, inline=True)
def _task_gnr(weights: jax.Array, stats: GradientStats) -> jax.Array:
  """Returns the GNR under the weights of the update, of each group if there are any."""
  return (task_gnr if weights.ndim == 1 else jax.vmap(task_gnr))(weights, stats)


def frame_state(state: MaxGNRState) -> AggregatorState:
  """Returns the frame's state; the momentum says what the trunk is, unless sketched."""
  names = ("momentum", "single_task_gnr", "stats", "noise")
  return AggregatorState(
    count=state.count,
    weights=state.weights,
    memory={name: getattr(state, name) for name in names},
    task_count=state.task_count,
    notfinite_count=state.notfinite_count,
    zero_count=state.zero_count,
    trunk=state.momentum if state.trunk is None else state.trunk,
    groups=state.groups,
    smoothed=state.smoothed,
  )
