"""Multi-task training in JAX by the gradient-to-noise ratio."""

from maxgnr_jax._certificate import certificate as certificate
from maxgnr_jax._diagnostics import diagnostics as diagnostics
from maxgnr_jax._gnr import GradientStats as GradientStats
from maxgnr_jax._gnr import NoiseAverage as NoiseAverage
from maxgnr_jax._gnr import single_task_gnr as single_task_gnr
from maxgnr_jax._gnr import task_gnr as task_gnr
from maxgnr_jax._grads._combined_grad import CombinedGrad as CombinedGrad
from maxgnr_jax._grads._combined_grad import CombinedGradState as CombinedGradState
from maxgnr_jax._grads._combined_grad import (
  value_and_combined_grad as value_and_combined_grad,
)
from maxgnr_jax._grads._flat_task_grads import (
  value_and_flat_task_grads as value_and_flat_task_grads,
)
from maxgnr_jax._grads._task_grads import value_and_task_grads as value_and_task_grads
from maxgnr_jax._grouping import group_tasks as group_tasks
from maxgnr_jax._interference import interference as interference
from maxgnr_jax._interference import retained_gnr as retained_gnr
from maxgnr_jax._maxgnr import maxgnr as maxgnr
from maxgnr_jax._maxgnr_state import MaxGNRState as MaxGNRState
from maxgnr_jax._solvers import Solver as Solver
from maxgnr_jax._solvers import projected_gradient as projected_gradient
from maxgnr_jax._solvers import projected_newton as projected_newton
from maxgnr_jax._solvers import steepest_descent as steepest_descent
from maxgnr_jax._stacked._groups import group_names as group_names
from maxgnr_jax._state import aggregator_state as aggregator_state
from maxgnr_jax._task_names import task_names as task_names

__version__ = "0.2.0"
