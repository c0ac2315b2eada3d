"""The aggregators of the library, and the methods that the experiments compare.

``AGGREGATORS`` has one row for each factory, with what the benchmarks and the tests
must know of it. ``METHODS`` has the rows of the experiments' tables: an aggregator with
its options.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax

from maxgnr_jax import GradientStats, Solver, aggregators, maxgnr, steepest_descent


class Aggregator(NamedTuple):
  """A factory of transformations, and what is known of it.

  Attributes:
    factory: Takes ``num_tasks=``, ``shared=`` and the arguments below, returns a
      transformation.
    arguments: Arguments without a default in the factory, and their values.
    needs: Extra arguments of ``update`` besides the gradients: ``losses`` and ``kpis``
      are arrays [K], ``flat_grads`` is a tree like the gradients.
    on_trunk: Whether it measures gradients. Others are given all parameters.
    degree: When all gradients are multiplied by s, the update is multiplied by s to
      this power.
    schedulable: A numeric argument, its default, and another value that leads to other
      updates. None if the factory has no such argument.
    takes: Extra arguments of ``update`` that may be given.
    guarantees: What holds of every update, as ``docs/methods.md`` explains it.
  """

  factory: Callable[..., optax.GradientTransformation]
  arguments: Mapping[str, Any] = {}
  needs: tuple[str, ...] = ()
  on_trunk: bool = True
  degree: float = 1.0
  schedulable: tuple[str, float, float] | None = None
  takes: tuple[str, ...] = ()
  guarantees: tuple[str, ...] = ()

  def make(
    self, num_tasks: int, shared: Any = None, **options: Any
  ) -> optax.GradientTransformation:
    """Makes a transformation for K tasks that measures the ``shared`` parameters."""
    if self.on_trunk or "unshared" in options:
      options["shared"] = shared
    return self.factory(num_tasks=num_tasks, **{**self.arguments, **options})


def _constant_weights(num_tasks: int) -> optax.GradientTransformation:
  return aggregators.constant_weights([1.0] * num_tasks)


def _flat_regions(
  num_tasks: int | None = None,
  shared: Any = None,
  inner: Callable[..., optax.GradientTransformation] = aggregators.imtl_g,
) -> optax.GradientTransformation:
  return aggregators.flat_regions(inner(num_tasks=num_tasks, shared=shared))


def _ngdiff(num_tasks: int, shared: Any = None) -> optax.GradientTransformation:
  """Makes NGDiff without a task to unlearn."""
  return aggregators.ngdiff([1] * num_tasks, shared=shared)


def _of_losses(
  factory: Callable[..., optax.GradientTransformation], **known: Any
) -> Aggregator:
  """Makes the row of a method that looks at losses and measures no gradient."""
  return Aggregator(factory, needs=("losses",), on_trunk=False, **known)


AGGREGATORS = {
  "maxgnr": Aggregator(maxgnr, schedulable=("gamma", 0.9, 0.1)),
  "aligned_mtl": Aggregator(aggregators.aligned_mtl),
  "bmtl": _of_losses(aggregators.bmtl, schedulable=("temperature", 1.0, 0.1)),
  "cagrad": Aggregator(
    aggregators.cagrad, schedulable=("c", 0.5, 0.1), guarantees=("mean loss falls",)
  ),
  "config": Aggregator(aggregators.config, guarantees=("equal cosines", "scale")),
  "conicgrad": Aggregator(
    aggregators.conicgrad, schedulable=("c", 0.5, 0.99), guarantees=("mean loss falls",)
  ),
  "constant_weights": Aggregator(_constant_weights, on_trunk=False),
  "db_mtl": Aggregator(
    aggregators.db_mtl,
    needs=("losses",),
    schedulable=("beta", 0.9, 0.1),
    guarantees=("scale",),
  ),
  "dibs_mtl": Aggregator(
    aggregators.dibs_mtl,
    degree=0.0,
    schedulable=("step_size", 0.01, 0.3),
    guarantees=("scale",),
  ),
  "dtp": Aggregator(
    aggregators.dtp, needs=("kpis",), on_trunk=False, schedulable=("gamma", 1.0, 3.0)
  ),
  "dualproj": Aggregator(aggregators.dualproj, guarantees=("no conflict",)),
  "dwa": _of_losses(
    aggregators.dwa,
    arguments={"steps_per_epoch": 100},
    schedulable=("temperature", 2.0, 0.2),
  ),
  "equal_weights": Aggregator(aggregators.equal_weights, on_trunk=False),
  "excess_mtl": Aggregator(
    aggregators.excess_mtl, schedulable=("step_size", 0.01, 0.5)
  ),
  "fairgrad": Aggregator(
    aggregators.fairgrad,
    degree=0.0,
    schedulable=("alpha", 1.0, 2.0),
    guarantees=("no conflict", "scale, by default"),
  ),
  "famo": _of_losses(
    aggregators.famo,
    schedulable=("min_losses", 0.0, 0.2),
    takes=("losses_after_step",),
    guarantees=("scale",),
  ),
  "flat_regions": Aggregator(_flat_regions, needs=("flat_grads",)),
  "gls": _of_losses(aggregators.gls, guarantees=("scale",)),
  "go4align": _of_losses(aggregators.go4align, schedulable=("step_size", 1e-4, 1.0)),
  "graddrop": Aggregator(
    aggregators.graddrop, on_trunk=False, schedulable=("leak", 0.0, 0.5)
  ),
  "gradient_dropout": Aggregator(
    aggregators.gradient_dropout,
    on_trunk=False,
    schedulable=("rate", 0.1, 0.3),
    guarantees=("mean of the gradients, in expectation",),
  ),
  "gradient_norm_scaling": Aggregator(
    aggregators.gradient_norm_scaling, guarantees=("scale",)
  ),
  "gradnorm": Aggregator(aggregators.gradnorm, needs=("losses",)),
  "gradvac": Aggregator(aggregators.gradvac),
  "igb": _of_losses(
    aggregators.igb, arguments={"steps_per_epoch": 100}, guarantees=("scale",)
  ),
  "imtl_g": Aggregator(
    aggregators.imtl_g, guarantees=("equal projections", "scale, up to the sign")
  ),
  "imtl_l": _of_losses(aggregators.imtl_l, guarantees=("scale, once learned",)),
  "krum": Aggregator(
    aggregators.krum, guarantees=("withstands `num_byzantine` arbitrary gradients",)
  ),
  "mgda": Aggregator(aggregators.mgda, guarantees=("no conflict",)),
  "moco": Aggregator(aggregators.moco, schedulable=("gamma", 0.1, 0.5)),
  "modo": Aggregator(
    aggregators.modo, schedulable=("gamma", 0.1, 0.5), takes=("independent_grads",)
  ),
  "nash_mtl": Aggregator(
    aggregators.nash_mtl, degree=0.0, guarantees=("no conflict", "scale")
  ),
  "ngdiff": Aggregator(_ngdiff, degree=0.0, guarantees=("scale",)),
  "ntkmtl": Aggregator(
    aggregators.ntkmtl,
    schedulable=("exponent", 0.5, 0.75),
    guarantees=("scale, by default",),
  ),
  "pcgrad": Aggregator(aggregators.pcgrad, guarantees=("no conflict for K = 2",)),
  "random_weights": Aggregator(aggregators.random_weights, on_trunk=False),
  "sdmgrad": Aggregator(
    aggregators.sdmgrad,
    schedulable=("direction", 0.3, 3.0),
    takes=("independent_grads",),
  ),
  "slaw": _of_losses(
    aggregators.slaw,
    schedulable=("beta", 0.99, 0.1),
    guarantees=("scale, after its first step",),
  ),
  "stch": _of_losses(aggregators.stch, schedulable=("mu", 1.0, 0.1)),
  "trimmed_mean": Aggregator(
    aggregators.trimmed_mean,
    on_trunk=False,
    guarantees=("withstands `trim` arbitrary gradients",),
  ),
  "uncertainty": _of_losses(aggregators.uncertainty),
  "upgrad": Aggregator(aggregators.upgrad, guarantees=("no conflict",)),
}


class Setting(NamedTuple):
  """The part of a problem that a method may have to know.

  Attributes:
    num_tasks: K.
    shared: Function from the parameters to bools: where gradients are measured.
    steps_per_epoch: Steps of an epoch, over which DWA averages losses.
    layers: Function from the parameters to labels, for methods with weights for each
      layer. None if the problem does not say what its layers are.
    last_layer: Function from the parameters to bools: the last layer that the tasks
      share. None if the problem does not say which it is.
    last_bias: The same for the bias of that layer alone.
    frame: Arguments that every aggregator of a weighted sum takes.
  """

  num_tasks: int
  shared: Callable[[Any], Any]
  steps_per_epoch: int
  layers: Callable[[Any], Any] | None = None
  last_layer: Callable[[Any], Any] | None = None
  last_bias: Callable[[Any], Any] | None = None
  frame: Mapping[str, Any] = {}


class Method(NamedTuple):
  """A row of the experiments' tables.

  Attributes:
    make: From a setting to a transformation of stacked gradients.
    flat_radius: Radius of the perturbation at which flat gradients are taken; None for
      a method that takes none.
    refresh_every: Steps from one choice of weights to the next.
    stacked: Whether an update takes more than the gradients and the losses.
    unit_length: Whether the optimiser gets the update divided by its length.
  """

  make: Callable[[Setting], optax.GradientTransformation]
  flat_radius: float | None = None
  refresh_every: int = 1
  stacked: bool = False
  unit_length: bool = False


def _method(
  aggregator: str,
  of_setting: Callable[[Setting], dict[str, Any]] = lambda setting: {},
  **options: Any,
) -> Method:
  """Makes a row from an aggregator, options, and options that the setting decides."""

  def make(setting: Setting) -> optax.GradientTransformation:
    chosen = {"shared": setting.shared, **options, **of_setting(setting)}
    chosen |= setting.frame
    return AGGREGATORS[aggregator].make(setting.num_tasks, **chosen)

  return Method(make, stacked="kpis" in AGGREGATORS[aggregator].needs)


_MAXGNR = re.compile(
  r"maxgnr-(?P<gamma>\d+(\.\d+)?)(?P<paper>-paper-solver)?"
  r"(-noise-(?P<noise>\d+(\.\d+)?))?(?P<layers>-by-layer)?"
  r"(-sketch-(?P<sketch>\d+))?(-every-(?P<every>[1-9]\d*))?"
  r"(-(?P<part>all|last-layer|last-bias))?"
)
_MAXGNR_NAMES = (
  "maxgnr-GAMMA[-paper-solver][-noise-DECAY][-by-layer][-sketch-SIZE][-every-STEPS]"
  "[-all|-last-layer|-last-bias]"
)


def _maxgnr(name: str) -> Method | None:
  """Makes MaxGNR with the options in its name; None if the name is another method's."""
  found = _MAXGNR.fullmatch(name)
  if found is None:
    return None
  options: dict[str, Any] = {"gamma": float(found["gamma"])}
  if found["paper"]:
    options["solver"] = steepest_descent()
  if found["noise"]:
    options["noise_decay"] = float(found["noise"])
  if found["sketch"]:
    options["sketch"] = int(found["sketch"])
  if found["part"] == "all":
    options["shared"] = None

  def of_setting(setting: Setting) -> dict[str, Any]:
    chosen = {}
    if found["layers"]:
      chosen["groups"] = _said(setting, "layers", name, "what its layers are")
    if found["part"] in ("last-layer", "last-bias"):
      field = found["part"].replace("-", "_")
      which = "which parameters the tasks share last"
      chosen["shared"] = _said(setting, field, name, which)
    return chosen

  method = _method("maxgnr", of_setting, **options)
  return method._replace(refresh_every=int(found["every"] or 1))


_FRAME = re.compile(
  r"(?P<method>.+?)(-smoothed-(?P<smoothing>\d+(\.\d+)?))?(?P<own>-own-heads)?"
  r"(?P<rescaled>-rescaled)?(?P<unit>-unit-length)?"
)
_FRAME_NAMES = "[-smoothed-DECAY][-own-heads][-rescaled][-unit-length]"


def _framed(name: str) -> tuple[str, dict[str, Any], bool]:
  """Splits a name into that of a method, options of the frame around it, and whether
  its updates have unit length.
  """
  found = _FRAME.fullmatch(name)
  assert found is not None
  frame: dict[str, Any] = {}
  if found["smoothing"]:
    frame["smoothing"] = float(found["smoothing"])
  if found["own"]:
    frame["unshared"] = "own"
  if found["rescaled"]:
    frame["rescale"] = "mean"
  return found["method"], frame, bool(found["unit"])


def _said(setting: Setting, field: str, method: str, what: str) -> Callable[[Any], Any]:
  """Returns a field of the setting, which not every problem fills."""
  value = getattr(setting, field)
  if value is None:
    raise ValueError(
      f"the method {method} needs a problem that says {what} (`Problem.{field}`): "
      "choose another method"
    )
  return value


def _equal_weights(stats: GradientStats):
  return jnp.full_like(stats.gradient_norm, 1 / stats.gradient_norm.size)


# Equal weights by way of `maxgnr`, so that the GNR is measured as MaxGNR measures it.
EQUAL_WEIGHTS = _method("maxgnr", gamma=0.9, solver=Solver(_equal_weights))

# The plain sum, for single-task models.
SUM = _method("equal_weights", shared=None)

# Its weights are in the state, so that it is compiled once for all of them.
FIXED_WEIGHTS = "fixed-weights"


def _fixed_weights(setting: Setting) -> optax.GradientTransformation:
  make = optax.inject_hyperparams(aggregators.constant_weights)
  return make(jnp.full(setting.num_tasks, 1 / setting.num_tasks))


# Name on the command line and in the table -> method.
METHODS = {
  "equal-weights": EQUAL_WEIGHTS,
  FIXED_WEIGHTS: Method(_fixed_weights),
  **{
    name: method
    for name in (
      "maxgnr-0.5",
      "maxgnr-0.9",
      "maxgnr-0.9-paper-solver",
      "maxgnr-0.9-noise-0.9",
      "maxgnr-0.9-noise-0.99",
      "maxgnr-0.9-by-layer",
      "maxgnr-0.9-every-4",
      "maxgnr-0.9-every-16",
    )
    if (method := _maxgnr(name))
  },
  "dwa": _method("dwa", lambda setting: {"steps_per_epoch": setting.steps_per_epoch}),
  "uncertainty": _method("uncertainty"),
  "gradnorm": _method("gradnorm"),
  "mgda": _method("mgda"),
  "pcgrad": _method("pcgrad"),
  "dtp": _method("dtp"),
  "gls": _method("gls"),
  "imtl-g": _method("imtl_g"),
  "imtl-l": _method("imtl_l"),
  "gradient-norm-scaling": _method("gradient_norm_scaling"),
  # What jaxpi does for physics-informed networks (Wang et al., An expert's guide to
  # training them, 2023): w_k = mean_j ‖g_j‖ / ‖g_k‖, averaged with a decay of 0.9.
  # Three things differ: a factor that all weights share; the average is of logarithms;
  # weights change every 100 steps rather than 1,000, because runs are shorter here.
  "jaxpi-grad-norm": _method("gradient_norm_scaling", smoothing=0.9)._replace(
    refresh_every=100
  ),
  "cagrad": _method("cagrad"),
  "nash-mtl": _method("nash_mtl"),
  "fairgrad-2": _method("fairgrad", alpha=2.0),
  "conicgrad": _method("conicgrad"),
  "ngdiff": _method("ngdiff"),
  "slaw": _method("slaw"),
  "bmtl": _method("bmtl"),
  "gradient-dropout": _method("gradient_dropout"),
  "flat-imtl-g": _method("flat_regions")._replace(flat_radius=0.05),
  "upgrad": _method("upgrad"),
  "dualproj": _method("dualproj"),
  "aligned-mtl": _method("aligned_mtl"),
  "config": _method("config"),
  "graddrop": _method("graddrop"),
  "gradvac": _method("gradvac"),
  "random-weights": _method("random_weights"),
  "famo": _method("famo"),
  "stch": _method("stch"),
  "db-mtl": _method("db_mtl"),
  "moco": _method("moco"),
  "excess-mtl": _method("excess_mtl"),
  "sdmgrad": _method("sdmgrad"),
  "modo": _method("modo"),
  "krum": _method("krum"),
  "trimmed-mean": _method("trimmed_mean"),
  "ntkmtl": _method("ntkmtl"),
  "dibs-mtl": _method("dibs_mtl"),
  "igb": _method("igb", lambda setting: {"steps_per_epoch": setting.steps_per_epoch}),
  "go4align": _method("go4align"),
}


def named(name: str) -> Method:
  """Finds the method of a name: one of ``METHODS``, or MaxGNR with its options.

  After either, in this order: ``-smoothed-DECAY``, with averaged weights;
  ``-own-heads``, with unweighted gradients outside of ``shared``; ``-rescaled``, with
  updates as long as the mean of the gradients; ``-unit-length``, with updates of length
  1 before the optimiser.

  The options of MaxGNR, in this order: γ in [0, 1); ``-paper-solver``, solved as in
  Section 5.1 of the paper instead of exactly; ``-noise-DECAY``, with a running mean of
  the noise; ``-by-layer``, with weights for each layer; ``-sketch-SIZE``, measured by
  sketches; ``-every-STEPS``, with weights that are kept for some steps; ``-all``,
  ``-last-layer`` or ``-last-bias``, measured on all parameters, on the last layer that
  the tasks share, or on its bias, instead of on all that they share.

  Raises:
    ValueError: if there is no method of that name, or for options of fixed weights.
  """
  base, frame, unit_length = _framed(name)
  method = METHODS.get(base) or _maxgnr(base)
  if method is None:
    raise ValueError(
      f"there is no method {name!r}: it must be {_MAXGNR_NAMES} or one of "
      f"{', '.join(METHODS)}, each with or without {_FRAME_NAMES}"
    )
  if base == FIXED_WEIGHTS != name:
    raise ValueError(
      f"{FIXED_WEIGHTS} are taken as they are, without {_FRAME_NAMES}, got {name!r}"
    )
  make = method.make
  return method._replace(
    make=lambda setting: make(setting._replace(frame=frame)), unit_length=unit_length
  )
