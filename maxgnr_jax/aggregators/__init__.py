"""The other methods, behind the same interface as :func:`maxgnr_jax.maxgnr`.

A method of your own is a :class:`Method`, which :func:`aggregator` makes a gradient
transformation of.
"""

from maxgnr_jax._linalg import remember as remember
from maxgnr_jax.aggregators._aligned_mtl import aligned_mtl as aligned_mtl
from maxgnr_jax.aggregators._aligned_mtl import (
  aligned_mtl_weights as aligned_mtl_weights,
)
from maxgnr_jax.aggregators._bargain import fairgrad as fairgrad
from maxgnr_jax.aggregators._bargain import fairgrad_weights as fairgrad_weights
from maxgnr_jax.aggregators._bargain import nash_mtl as nash_mtl
from maxgnr_jax.aggregators._bargain import nash_mtl_weights as nash_mtl_weights
from maxgnr_jax.aggregators._base import AggregatorState as AggregatorState
from maxgnr_jax.aggregators._base import Choice as Choice
from maxgnr_jax.aggregators._base import Method as Method
from maxgnr_jax.aggregators._base import Step as Step
from maxgnr_jax.aggregators._base import aggregator as aggregator
from maxgnr_jax.aggregators._cagrad import cagrad as cagrad
from maxgnr_jax.aggregators._cagrad import cagrad_weights as cagrad_weights
from maxgnr_jax.aggregators._config import config as config
from maxgnr_jax.aggregators._config import config_weights as config_weights
from maxgnr_jax.aggregators._conicgrad import conicgrad as conicgrad
from maxgnr_jax.aggregators._conicgrad import conicgrad_weights as conicgrad_weights
from maxgnr_jax.aggregators._constant import constant_weights as constant_weights
from maxgnr_jax.aggregators._constant import equal_weights as equal_weights
from maxgnr_jax.aggregators._db_mtl import db_mtl as db_mtl
from maxgnr_jax.aggregators._dibs_mtl import dibs_mtl as dibs_mtl
from maxgnr_jax.aggregators._dibs_mtl import dibs_mtl_weights as dibs_mtl_weights
from maxgnr_jax.aggregators._double_sampling import modo as modo
from maxgnr_jax.aggregators._double_sampling import sdmgrad as sdmgrad
from maxgnr_jax.aggregators._dropout import graddrop as graddrop
from maxgnr_jax.aggregators._dropout import gradient_dropout as gradient_dropout
from maxgnr_jax.aggregators._dtp import dtp as dtp
from maxgnr_jax.aggregators._dual_cone import dualproj as dualproj
from maxgnr_jax.aggregators._dual_cone import dualproj_weights as dualproj_weights
from maxgnr_jax.aggregators._dual_cone import upgrad as upgrad
from maxgnr_jax.aggregators._dual_cone import upgrad_weights as upgrad_weights
from maxgnr_jax.aggregators._dwa import dwa as dwa
from maxgnr_jax.aggregators._excess_mtl import excess_mtl as excess_mtl
from maxgnr_jax.aggregators._famo import famo as famo
from maxgnr_jax.aggregators._flat_regions import FlatRegionsState as FlatRegionsState
from maxgnr_jax.aggregators._flat_regions import flat_regions as flat_regions
from maxgnr_jax.aggregators._go4align import go4align as go4align
from maxgnr_jax.aggregators._gradient_norm_scaling import (
  gradient_norm_scaling as gradient_norm_scaling,
)
from maxgnr_jax.aggregators._gradient_norm_scaling import (
  gradient_norm_scaling_weights as gradient_norm_scaling_weights,
)
from maxgnr_jax.aggregators._gradnorm import gradnorm as gradnorm
from maxgnr_jax.aggregators._gradvac import gradvac as gradvac
from maxgnr_jax.aggregators._gramian import gramian_method as gramian_method
from maxgnr_jax.aggregators._igb import igb as igb
from maxgnr_jax.aggregators._imtl_g import imtl_g as imtl_g
from maxgnr_jax.aggregators._imtl_g import imtl_g_weights as imtl_g_weights
from maxgnr_jax.aggregators._krum import krum as krum
from maxgnr_jax.aggregators._krum import krum_weights as krum_weights
from maxgnr_jax.aggregators._learned_scales import imtl_l as imtl_l
from maxgnr_jax.aggregators._learned_scales import uncertainty as uncertainty
from maxgnr_jax.aggregators._loss_functions import bmtl as bmtl
from maxgnr_jax.aggregators._loss_functions import bmtl_weights as bmtl_weights
from maxgnr_jax.aggregators._loss_functions import gls as gls
from maxgnr_jax.aggregators._loss_functions import gls_weights as gls_weights
from maxgnr_jax.aggregators._loss_functions import stch as stch
from maxgnr_jax.aggregators._loss_functions import stch_weights as stch_weights
from maxgnr_jax.aggregators._mgda import mgda as mgda
from maxgnr_jax.aggregators._mgda import mgda_weights as mgda_weights
from maxgnr_jax.aggregators._moco import moco as moco
from maxgnr_jax.aggregators._ngdiff import ngdiff as ngdiff
from maxgnr_jax.aggregators._ntkmtl import ntkmtl as ntkmtl
from maxgnr_jax.aggregators._ntkmtl import ntkmtl_weights as ntkmtl_weights
from maxgnr_jax.aggregators._pcgrad import pcgrad as pcgrad
from maxgnr_jax.aggregators._pcgrad import pcgrad_weights as pcgrad_weights
from maxgnr_jax.aggregators._random_weights import random_weights as random_weights
from maxgnr_jax.aggregators._slaw import slaw as slaw
from maxgnr_jax.aggregators._trimmed_mean import trimmed_mean as trimmed_mean
