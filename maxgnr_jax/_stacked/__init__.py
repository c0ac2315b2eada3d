"""Everything that touches K×D numbers."""

from maxgnr_jax._stacked._checks import HOW_TO_STACK as HOW_TO_STACK
from maxgnr_jax._stacked._checks import check_floating as check_floating
from maxgnr_jax._stacked._checks import check_same_shapes as check_same_shapes
from maxgnr_jax._stacked._checks import check_same_tasks as check_same_tasks
from maxgnr_jax._stacked._checks import check_stacked as check_stacked
from maxgnr_jax._stacked._combine import add as add
from maxgnr_jax._stacked._combine import apply as apply
from maxgnr_jax._stacked._combine import combine as combine
from maxgnr_jax._stacked._combine import only as only
from maxgnr_jax._stacked._combine import sorted_over_tasks as sorted_over_tasks
from maxgnr_jax._stacked._momentum import decay as decay
from maxgnr_jax._stacked._momentum import mix as mix
from maxgnr_jax._stacked._norms import all_finite as all_finite
from maxgnr_jax._stacked._norms import finite as finite
from maxgnr_jax._stacked._norms import gram as gram
from maxgnr_jax._stacked._norms import norms as norms
from maxgnr_jax._stacked._tree import along as along
from maxgnr_jax._stacked._tree import compute_dtype as compute_dtype
from maxgnr_jax._stacked._tree import one_task as one_task
from maxgnr_jax._stacked._tree import stack as stack
from maxgnr_jax._stacked._tree import zeros as zeros
