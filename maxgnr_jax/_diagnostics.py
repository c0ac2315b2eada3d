"""What the state tells a person, in a form every logger takes."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from maxgnr_jax._maxgnr import MaxGNRState
from maxgnr_jax.aggregators._base import AggregatorState

_PER_TASK = (
  "weights",
  "gnr",
  "single_task_gnr",
  "gradient_norm",
  "noise_norm",
  "task_count",
  "notfinite_count",
)


def diagnostics(
  opt_state: optax.OptState,
  names: Sequence[str] | None = None,
  groups: Sequence[str] | None = None,
) -> dict[str, jax.Array]:
  """The last step's weights, GNRs and norms as a flat dict of scalars.

  Args:
    opt_state: Optimiser state with one :class:`MaxGNRState` or one
      :class:`aggregators.AggregatorState` in it, after the first step (or made with
      ``num_tasks``). May be traced.
    names: K names of the tasks, in their order (see :func:`task_names`). Default:
      their numbers.
    groups: Names of the groups of parameters (see :func:`group_names`), if the
      aggregator was given ``groups``. Default: their numbers.

  Returns:
    ``weights/NAME``, ``gnr/NAME``, ``single_task_gnr/NAME``, ``gradient_norm/NAME``,
    ``noise_norm/NAME``, ``task_count/NAME`` and ``notfinite_count/NAME`` for each
    task, and ``noise_cosine/NAME,NAME`` for each pair: negative where two tasks'
    noises point against each other. With groups ``weights/GROUP/NAME`` and so on. For
    other aggregators ``weights/NAME``, if they have weights, the counts, and whatever
    number per task they remember, by its name.

  Raises:
    ValueError: if the names are not one per task, or group, all different.
    KeyError: if there is no such state in ``opt_state``, or more than one.

  Example:
    >>> import jax.numpy as jnp
    >>> from maxgnr_jax import diagnostics, maxgnr
    >>> tx = maxgnr()
    >>> params = jnp.zeros(2)
    >>> _, state = tx.update(jnp.array([[1.0, 0.0], [0.0, 3.0]]), tx.init(params))
    >>> f"{diagnostics(state, ['depth', 'edges'])['weights/depth']:.3f}"
    '0.750'
  """
  state = _only(opt_state)
  tasks = state.task_count.size
  grouped = state.groups is not None
  names = _names("names", names, tasks)
  result: dict[str, jax.Array] = {}
  for field, values in _per_task(state).items():
    for group, of_group in _by_group(groups, values, grouped).items():
      result |= {f"{field}/{group}{name}": of_group[k] for k, name in enumerate(names)}
  if isinstance(state, MaxGNRState):
    cosines = _by_group(groups, state.stats.noise_cosine, grouped)
    for group, cosine in cosines.items():
      for i, first in enumerate(names):
        for j, second in enumerate(names[:i]):
          result[f"noise_cosine/{group}{second},{first}"] = cosine[j, i]
  return result


def _names(argument: str, names: Sequence[str] | None, size: int) -> list[str]:
  names = [str(number) for number in range(size)] if names is None else list(names)
  if len(names) != size:
    raise ValueError(
      f"`{argument}` must be one per {'task' if argument == 'names' else 'group'}, "
      f"{size} here, got {len(names)}: {names}. Before the first step there are no "
      "tasks, unless `maxgnr` was given `num_tasks`."
    )
  if len(set(names)) != size:
    raise ValueError(f"`{argument}` must differ from each other, got {names}.")
  return names


def _by_group(
  groups: Sequence[str] | None, values: jax.Array, grouped: bool
) -> dict[str, jax.Array]:
  """Returns values per task by the prefix of their names."""
  if not grouped or values.ndim == 1:  # all groups share the counts
    return {"": values}
  names = _names("groups", groups, values.shape[0])
  return {f"{name}/": of_group for name, of_group in zip(names, values, strict=True)}


def _per_task(state: MaxGNRState | AggregatorState) -> dict[str, Any]:
  """Returns everything [K] in the state, by name."""
  if isinstance(state, MaxGNRState):
    fields = state._asdict() | state.stats._asdict()
    return {name: fields[name] for name in _PER_TASK}
  weights = {} if state.weights is None else {"weights": state.weights}
  counts = {name: getattr(state, name) for name in ("task_count", "notfinite_count")}
  shapes = {state.task_count.shape, *(x.shape for x in weights.values())}
  remembered = {
    name: values
    for name, values in state.memory.items()
    if getattr(values, "shape", None) in shapes
    and jnp.issubdtype(values.dtype, jnp.floating)
  }
  return weights | counts | remembered


def _only(opt_state: Any) -> MaxGNRState | AggregatorState:
  kinds = (MaxGNRState, AggregatorState)

  def is_state(node):
    return isinstance(node, kinds)

  nodes = jax.tree.leaves(opt_state, is_leaf=is_state)
  found = [node for node in nodes if is_state(node)]
  if len(found) != 1:
    raise KeyError(
      "There must be one state of `maxgnr` or another aggregator in `opt_state`, found "
      f"{len(found) or 'none'}. Pass the part of the state that holds one."
    )
  return found[0]
