"""What the state tells a person, in a form every logger takes."""

from collections.abc import Sequence
from typing import Any

import jax
import optax

_PER_TASK = ("weights", "gnr", "single_task_gnr", "gradient_norm", "noise_norm")


def diagnostics(
  opt_state: optax.OptState, names: Sequence[str] | None = None
) -> dict[str, jax.Array]:
  """The last step's weights, GNRs and norms as a flat dict of scalars.

  Args:
    opt_state: Optimiser state with one :class:`MaxGNRState` in it, after the first
      step (or made with ``num_tasks``). May be traced.
    names: K names of the tasks, in their order (see :func:`task_names`). Default:
      their numbers.

  Returns:
    ``weights/NAME``, ``gnr/NAME``, ``single_task_gnr/NAME``, ``gradient_norm/NAME``
    and ``noise_norm/NAME`` for each task, and ``noise_cosine/NAME,NAME`` for each
    pair: negative where two tasks' noises point against each other.

  Raises:
    ValueError: if the names are not one per task, all different.
    KeyError: if there is no MaxGNR state in ``opt_state``, or more than one.

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
  tasks = state.weights.shape[0]
  names = [str(task) for task in range(tasks)] if names is None else list(names)
  if len(names) != tasks:
    raise ValueError(
      f"`names` must be one per task, {tasks} here, got {len(names)}: {names}. Before "
      "the first step there are none, unless `maxgnr` was given `num_tasks`."
    )
  if len(set(names)) != tasks:
    raise ValueError(f"`names` must differ from each other, got {names}.")
  result: dict[str, jax.Array] = {}
  for field in _PER_TASK:
    values = getattr(state, field, None)
    values = getattr(state.stats, field) if values is None else values
    result |= {f"{field}/{name}": values[k] for k, name in enumerate(names)}
  for i, first in enumerate(names):
    for j, second in enumerate(names[:i]):
      result[f"noise_cosine/{second},{first}"] = state.stats.noise_cosine[j, i]
  return result


def _only(opt_state: Any) -> Any:
  found = [state for _, state in optax.tree.get_all_with_path(opt_state, "MaxGNRState")]
  if len(found) != 1:
    raise KeyError(
      f"There must be one `maxgnr` state in `opt_state`, found {len(found) or 'none'}. "
      "Pass the part of the state that holds one MaxGNRState."
    )
  return found[0]
