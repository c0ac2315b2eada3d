"""Wrong uses of the library, one in a line, which type checkers must report.

`tests/test_package.py` compares the lines that they report with the lines marked here.
"""

import jax
import optax

from maxgnr_jax import (
  GradientStats,
  aggregator_state,
  aggregators,
  diagnostics,
  maxgnr,
  task_names,
  value_and_combined_grad,
  value_and_task_grads,
)


def losses(params: jax.Array, batch: jax.Array) -> tuple[jax.Array, jax.Array]:
  return params.sum(), (params * batch).sum()


def wrong(params: jax.Array, opt_state: optax.OptState) -> None:
  combined = value_and_combined_grad(losses, maxgnr())
  print(
    maxgnr(gamma="0.9"),  # wrong: no number
    maxgnr(num_tasks=2.0),  # wrong: no integer
    maxgnr(seed=0),  # wrong: no such argument
    aggregators.mgda(2),  # wrong: by keyword only
    aggregators.pcgrad(seed=0),  # wrong: the name of 0.1.0
    aggregators.Method(),  # wrong: no rules
    aggregators.baseline_state,  # wrong: no such name
    GradientStats(params, params),  # wrong: a field is missing
    task_names(params)["depth"],  # wrong: a list, not a dict
    diagnostics(opt_state, names="depth", groups=2),  # wrong: no names
    aggregator_state(opt_state).stats,  # wrong: of MaxGNR alone
    value_and_task_grads(losses)(params),  # wrong: a batch is missing
    value_and_task_grads(losses)(params, params)[0]["depth"],  # wrong: a tuple
    value_and_task_grads(losses(params, params)),  # wrong: no function
    combined.value_and_grads,  # wrong: no such field
  )
