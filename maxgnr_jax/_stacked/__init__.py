"""Operations on stacked pytrees: K gradients of D parameters each.

A *stacked* pytree holds the K tasks on the leading axis of every leaf. Arithmetic is
in float32 at least, whatever dtype the numbers are stored in.
"""

from maxgnr_jax._stacked._checks import HOW_TO_STACK as HOW_TO_STACK
from maxgnr_jax._stacked._checks import check_floating as check_floating
from maxgnr_jax._stacked._checks import check_same_shapes as check_same_shapes
from maxgnr_jax._stacked._checks import check_same_tasks as check_same_tasks
from maxgnr_jax._stacked._checks import count_tasks as count_tasks
from maxgnr_jax._stacked._checks import first_not_floating as first_not_floating
from maxgnr_jax._stacked._combine import apply as apply
from maxgnr_jax._stacked._combine import combine as combine
from maxgnr_jax._stacked._combine import sorted_over_tasks as sorted_over_tasks
from maxgnr_jax._stacked._groups import Labels as Labels
from maxgnr_jax._stacked._groups import group_names as group_names
from maxgnr_jax._stacked._groups import merge as merge
from maxgnr_jax._stacked._groups import split as split
from maxgnr_jax._stacked._momentum import decay as decay
from maxgnr_jax._stacked._momentum import mix as mix
from maxgnr_jax._stacked._norms import all_finite as all_finite
from maxgnr_jax._stacked._norms import finite as finite
from maxgnr_jax._stacked._norms import gramian as gramian
from maxgnr_jax._stacked._norms import gramian_and_largest as gramian_and_largest
from maxgnr_jax._stacked._norms import largest as largest
from maxgnr_jax._stacked._norms import magnitude as magnitude
from maxgnr_jax._stacked._norms import norms as norms
from maxgnr_jax._stacked._norms import task_scale as task_scale
from maxgnr_jax._stacked._norms import zero as zero
from maxgnr_jax._stacked._sharding import named_axes as named_axes
from maxgnr_jax._stacked._sharding import over_parameters as over_parameters
from maxgnr_jax._stacked._sharding import sharded_over as sharded_over
from maxgnr_jax._stacked._sketch import DEFAULT_SIZE as DEFAULT_SIZE
from maxgnr_jax._stacked._sketch import sketch as sketch
from maxgnr_jax._stacked._sums import sums_of_products as sums_of_products
from maxgnr_jax._stacked._sums import sums_of_squares as sums_of_squares
from maxgnr_jax._stacked._tree import add as add
from maxgnr_jax._stacked._tree import compute_dtype as compute_dtype
from maxgnr_jax._stacked._tree import one_task as one_task
from maxgnr_jax._stacked._tree import stack as stack
from maxgnr_jax._stacked._tree import zeros as zeros
from maxgnr_jax._stacked._trunk import Trunk as Trunk
from maxgnr_jax._stacked._trunk import has_numbers as has_numbers
from maxgnr_jax._stacked._trunk import heads as heads
from maxgnr_jax._stacked._trunk import is_masked as is_masked
from maxgnr_jax._stacked._trunk import nothing_to_measure as nothing_to_measure
from maxgnr_jax._stacked._trunk import restrict as restrict
from maxgnr_jax._stacked._trunk import select as select
from maxgnr_jax._stacked._trunk import specs_of as specs_of
from maxgnr_jax._stacked._trunk import trunk_mask as trunk_mask
from maxgnr_jax._stacked._trunk import trunk_of as trunk_of
