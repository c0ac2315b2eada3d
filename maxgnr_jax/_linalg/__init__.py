"""Algebra of K-sized arrays: Gramians, task weights and masks of active tasks."""

from maxgnr_jax._linalg._active import active_softmax as active_softmax
from maxgnr_jax._linalg._active import corrected_decay as corrected_decay
from maxgnr_jax._linalg._active import count_where as count_where
from maxgnr_jax._linalg._active import num_active as num_active
from maxgnr_jax._linalg._active import redistribute as redistribute
from maxgnr_jax._linalg._active import remember as remember
from maxgnr_jax._linalg._active import uniform_weights as uniform_weights
from maxgnr_jax._linalg._active import zero_inactive as zero_inactive
from maxgnr_jax._linalg._active_set import (
  minimise_above_exactly as minimise_above_exactly,
)
from maxgnr_jax._linalg._active_set import solve_free as solve_free
from maxgnr_jax._linalg._clusters import cluster_means as cluster_means
from maxgnr_jax._linalg._components import principal_components as principal_components
from maxgnr_jax._linalg._gramian import cosines as cosines
from maxgnr_jax._linalg._gramian import equal_cosines as equal_cosines
from maxgnr_jax._linalg._gramian import inverse_norms as inverse_norms
from maxgnr_jax._linalg._gramian import norms as norms
from maxgnr_jax._linalg._gramian import only_active as only_active
from maxgnr_jax._linalg._gramian import rounding as rounding
from maxgnr_jax._linalg._gramian import unit_largest as unit_largest
from maxgnr_jax._linalg._gramian import unit_products as unit_products
from maxgnr_jax._linalg._line_search import search_line as search_line
from maxgnr_jax._linalg._matrix import matvec as matvec
from maxgnr_jax._linalg._matrix import quadratic_form as quadratic_form
from maxgnr_jax._linalg._newton import minimise_on_simplex as minimise_on_simplex
from maxgnr_jax._linalg._projected_newton import (
  minimise_above_by_newton as minimise_above_by_newton,
)
from maxgnr_jax._linalg._quadratic import minimise_above as minimise_above
from maxgnr_jax._linalg._root import square_root as square_root
from maxgnr_jax._linalg._simplex import project_on_simplex as project_on_simplex
