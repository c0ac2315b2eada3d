"""The other methods, behind the same interface as :func:`maxgnr_jax.maxgnr`."""

from maxgnr_jax.baselines._aligned_mtl import aligned_mtl as aligned_mtl
from maxgnr_jax.baselines._aligned_mtl import aligned_mtl_weights as aligned_mtl_weights
from maxgnr_jax.baselines._constant import constant_weights as constant_weights
from maxgnr_jax.baselines._constant import equal_weights as equal_weights
from maxgnr_jax.baselines._dual_cone import dualproj as dualproj
from maxgnr_jax.baselines._dual_cone import dualproj_weights as dualproj_weights
from maxgnr_jax.baselines._dual_cone import upgrad as upgrad
from maxgnr_jax.baselines._dual_cone import upgrad_weights as upgrad_weights
from maxgnr_jax.baselines._gramian import GramianState as GramianState
from maxgnr_jax.baselines._gramian import gramian_method as gramian_method
from maxgnr_jax.baselines._imtl_g import imtl_g as imtl_g
from maxgnr_jax.baselines._imtl_g import imtl_g_weights as imtl_g_weights
from maxgnr_jax.baselines._mgda import mgda as mgda
from maxgnr_jax.baselines._mgda import mgda_weights as mgda_weights
