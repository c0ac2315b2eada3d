"""Diagnostics of an aggregator's state, in a form that any logger accepts."""

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from maxgnr_jax import _certificate
from maxgnr_jax._interference import interference
from maxgnr_jax._maxgnr_state import MaxGNRState
from maxgnr_jax._state import aggregator_state
from maxgnr_jax._task_names import check_has_no_names
from maxgnr_jax.aggregators._base import AggregatorState

_COUNTS = ("task_count", "notfinite_count", "zero_count")
_PER_TASK = (
  "weights",
  "gnr",
  "single_task_gnr",
  "gradient_norm",
  "noise_norm",
  *_COUNTS,
)


def diagnostics(
  opt_state: optax.OptState,
  names: Sequence[str] | None = None,
  groups: Sequence[str] | None = None,
  *,
  certificate: bool = False,
) -> dict[str, jax.Array]:
  """Returns the weights, GNRs and norms of the last step as a flat dict of scalars.

  Args:
    opt_state: Optimiser state, or an object that holds one, with exactly one
      aggregator in it, as :func:`aggregator_state` takes it. May be traced. Before the
      first step the dict is empty, unless the state was made with ``num_tasks``.
    names: Names of the K tasks, in the order of the stacked gradients (see
      :func:`task_names`). Default: "0", "1" and so on.
    groups: Names of the groups of parameters (see :func:`group_names`), if the
      aggregator was given ``groups``. Default: "0", "1" and so on.
    certificate: Adds ``certificate`` (``certificate/GROUP``) for :func:`maxgnr`: a
      share of the optimum that the weights are certain to reach, by some linear algebra
      of K numbers (see :func:`certificate`).

  Returns:
    A dict of scalars. For :func:`maxgnr` it holds ``weights/NAME``, ``gnr/NAME``,
    ``single_task_gnr/NAME``, ``gradient_norm/NAME``, ``noise_norm/NAME``,
    ``task_count/NAME``, ``notfinite_count/NAME`` and ``zero_count/NAME`` for each task;
    ``noise_cosine/NAME,NAME`` for each pair of tasks, negative where their noises
    oppose each other; and ``interference/NAME,NAME``, how much the noise of the second
    task disturbs the first (see :func:`interference`). For other aggregators it holds
    ``weights/NAME`` (if the state has weights), the three counts, and every number per
    task in the memory, by its name.
    With groups the keys are ``weights/GROUP/NAME`` and so on; all groups share the
    counts.

  Raises:
    ValueError: if ``names`` are not K different names, or ``groups`` not one different
      name per group.
    TypeError: if ``names`` are no list but a dict or a NamedTuple.
    KeyError: if ``opt_state`` contains no such state, or more than one.

  Example:
    >>> import jax.numpy as jnp
    >>> from maxgnr_jax import diagnostics, maxgnr
    >>> tx = maxgnr()
    >>> params = jnp.zeros(2)
    >>> _, state = tx.update(jnp.array([[1.0, 0.0], [0.0, 3.0]]), tx.init(params))
    >>> f"{diagnostics(state, ['depth', 'edges'])['weights/depth']:.3f}"
    '0.750'
  """
  state = aggregator_state(opt_state)
  tasks = state.task_count.size
  grouped = state.groups is not None
  check_has_no_names("names", names)
  names = _names("names", names, tasks)
  result: dict[str, jax.Array] = {}
  for field, values in _per_task(state).items():
    for prefix, numbers in _by_group(groups, values, grouped).items():
      result |= {f"{field}/{prefix}{name}": numbers[k] for k, name in enumerate(names)}
  if isinstance(state, MaxGNRState):
    cosines = _by_group(groups, state.stats.noise_cosine, grouped)
    for prefix, cosine in cosines.items():
      for i, first in enumerate(names):
        for j, second in enumerate(names[:i]):
          result[f"noise_cosine/{prefix}{second},{first}"] = cosine[j, i]
    measure = jax.vmap(interference) if grouped else interference
    ratios = measure(state.stats, state.weights)
    for prefix, ratio in _by_group(groups, ratios, grouped).items():
      for (i, first), (j, second) in itertools.permutations(enumerate(names), 2):
        result[f"interference/{prefix}{first},{second}"] = ratio[i, j]
    if certificate and tasks:
      certify = _certificate.certificate
      certify = jax.vmap(certify) if grouped else certify
      shares = certify(state.stats, state.weights)
      for prefix, share in _by_group(groups, shares[..., None], grouped).items():
        result[f"certificate/{prefix}".rstrip("/")] = share[0]
  return result


def _names(argument: str, names: Sequence[str] | None, size: int) -> list[str]:
  """Returns ``size`` names, by default their numbers; raises unless they fit."""
  names = [str(number) for number in range(size)] if names is None else list(names)
  if len(names) != size:
    raise ValueError(
      f"`{argument}` must be one per {'task' if argument == 'names' else 'group'}, "
      f"{size} here, got {len(names)}: {names}. Before the first step the state knows "
      "no tasks: give the aggregator `num_tasks` or call `diagnostics` after a step."
    )
  if len(set(names)) != size:
    raise ValueError(f"`{argument}` must be all different, got {names}.")
  return names


def _by_group(
  groups: Sequence[str] | None, values: jax.Array, grouped: bool
) -> dict[str, jax.Array]:
  """Returns the values of each group by the prefix of their keys, ``"GROUP/"``.

  Without groups, and for the counts, which all groups share, the prefix is empty.
  """
  if not grouped or values.ndim == 1:
    return {"": values}
  names = _names("groups", groups, values.shape[0])
  return {f"{name}/": numbers for name, numbers in zip(names, values, strict=True)}


def _per_task(state: MaxGNRState | AggregatorState) -> dict[str, Any]:
  """Returns every array [K], or [G, K] with groups, in the state, by name."""
  if isinstance(state, MaxGNRState):
    fields = state._asdict() | state.stats._asdict()
    return {name: fields[name] for name in _PER_TASK}
  weights = {} if state.weights is None else {"weights": state.weights}
  counts = {name: getattr(state, name) for name in _COUNTS}
  shapes = {state.task_count.shape, *(x.shape for x in weights.values())}
  remembered = {
    name: values
    for name, values in state.memory.items()
    if getattr(values, "shape", None) in shapes
    and jnp.issubdtype(values.dtype, jnp.floating)
  }
  return weights | counts | remembered
