"""Preferences among the tasks, for methods that combine gradients by given shares."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from maxgnr_jax._checks import one_per_task
from maxgnr_jax._linalg import redistribute, uniform_weights, zero_inactive
from maxgnr_jax._task_names import check_has_no_names

Preferences = Sequence[float] | jax.Array | None


def check_preferences(preferences: Preferences) -> None:
  """Raises unless ``preferences`` is None or a vector of non-negative numbers.

  Lets a traced value pass. How many they must be is known at the first update.
  """
  if preferences is None or isinstance(preferences, jax.core.Tracer):
    return
  check_has_no_names("preferences", preferences)
  values = np.asarray(preferences, np.float64)
  valid = values.ndim == 1 and np.isfinite(values).all() and (values >= 0).all()
  if not (valid and values.any()):
    raise ValueError(
      "`preferences` must be a vector of one number per task, at least 0 and not all "
      f"0, got {preferences!r}. Leave it out for equal ones."
    )


def preferred_weights(
  preferences: Preferences, active: jax.Array, dtype: Any
) -> jax.Array:
  """Returns the shares of the active tasks, [K]; 0 for the others.

  Args:
    preferences: [K], non-negative. Active tasks share the total in proportion to their
      own preferences, equally if all of these are 0. None for 1/K each, where K is the
      number of active tasks.
    active: [K], bool.
    dtype: Dtype of the result.

  Raises:
    ValueError: if there are not as many as tasks.
  """
  equal = uniform_weights(active, dtype)
  if preferences is None:
    return equal
  given = one_per_task("preferences", jnp.asarray(preferences), equal)
  shared = redistribute(active, given)
  none = jnp.all(zero_inactive(active, given) == 0)
  return jnp.where(none, equal * jnp.sum(given), zero_inactive(active, shared))
