"""Writes golden.json: what TorchJD and LibMTL compute for gradients drawn at random.

Needs an environment of its own; the tests need the file only. LibMTL is not a package:
it is a checkout of the GitHub repository median-research-group/LibMTL at commit
4336804847eaa5e0b924b743d76beec7ac3fdc97, whose place is given by ``--libmtl``. With
Python 3.11, in the repository's root::

  python -m venv golden-env
  . golden-env/bin/activate
  pip install torch==2.13.0 'torchjd[full]==0.18.0' numpy==2.4.6 scipy==1.17.1
  pip install cvxpy==1.9.3 clarabel==0.11.1 ecos==2.0.14
  pip install qpsolvers==4.13.0 quadprog==0.1.14
  python tests/golden/generate.py --libmtl LibMTL
"""

import argparse
import importlib
import importlib.metadata
import itertools
import json
import pathlib
import platform
import subprocess
import sys
import types
import warnings
from functools import partial

import definitions
import draws
import numpy as np
import torch
from torchjd import aggregation, scalarization
from torchjd.linalg import QuadprogProjector

PACKAGES = ["torch", "torchjd", "numpy", "scipy", "cvxpy", "clarabel", "ecos"]
PACKAGES += ["qpsolvers", "quadprog"]
ATTEMPTS = 20  # gradients of a kind that are drawn before it is given up


def one_step(
  method,
  make,
  kinds,
  kwargs=None,
  *,
  left=None,
  accept=1e-6,
  tolerance=None,
  unique=True,
  comparable=lambda jacobian: True,
):
  """Cases of one step: of every kind, the first gradients that the source solves.

  Args:
    method: The library's name of it.
    make: From a number of tasks to TorchJD's aggregator.
    kinds: Names of kinds of gradients.
    kwargs: The library's arguments.
    left: From gradients and weights to what is left of the definition, if checked.
    accept: The most that a solution leaves.
    tolerance: From what is left to the relative accuracy of the update.
    unique: Whether dependent gradients determine the weights.
    comparable: Whether the source does for these gradients what the library does.
  """
  for kind in kinds:
    rests = []
    for jacobian in map(partial(draws.gradients, kind), range(ATTEMPTS)):
      if not comparable(jacobian):
        continue
      aggregator, weights = make(len(jacobian)), None
      update = aggregator(torch.tensor(jacobian)).numpy()
      if isinstance(aggregator, aggregation.WeightedAggregator):
        weights = make(len(jacobian)).weighting(torch.tensor(jacobian)).numpy()
      rests.append(0.0 if left is None else max(left(jacobian, weights), 0.0))
      if rests[-1] <= accept:
        break
    source = f"torchjd {type(aggregator).__name__}"
    case = {"method": method, "source": source, "inputs": kind, "kwargs": kwargs or {}}
    if left is not None:
      case |= {"residual": draws.digits(min(rests), 2), "redrawn": len(rests) - 1}
    if tolerance is not None:
      case["tolerance"] = tolerance(rests[-1])
    if rests[-1] > accept:
      yield case
      continue
    if not unique and np.linalg.matrix_rank(jacobian) < len(jacobian):
      weights = None
    step = {"jacobian": jacobian, "losses": None, "update": update, "weights": weights}
    yield case | {"steps": [step]}


def weightings():
  """Methods whose solutions are checked: the solvers are iterative or regularised."""
  exact = QuadprogProjector(norm_eps=0.0, reg_eps=1e-12)
  yield from one_step(
    "mgda",
    lambda tasks: aggregation.MGDA(epsilon=1e-15, max_iters=20_000),
    draws.ALL,
    left=definitions.mgda,
    accept=1e-12,
    tolerance=lambda left: 1e-6,
    unique=False,
  )
  for method, make in (
    ("upgrad", aggregation.UPGrad),
    ("dualproj", aggregation.DualProj),
  ):
    yield from one_step(
      method,
      lambda tasks, make=make: make(projector=exact),
      draws.ALL,
      left=getattr(definitions, method),
      unique=False,
    )
  # With dependent gradients of different norms TorchJD solves another least squares.
  yield from one_step(
    "imtl_g",
    lambda tasks: aggregation.IMTLG(),
    draws.CONSISTENT,
    left=definitions.imtl_g,
  )
  for c in (0.5, 0.2):
    yield from one_step(
      "cagrad",
      lambda tasks, c=c: aggregation.CAGrad(c=c, norm_eps=1e-9),
      draws.ALL,
      {"c": c},
      left=partial(definitions.cagrad, c=c),
      accept=1e-3,
      tolerance=lambda left: 1e-4,
      unique=False,
    )
  yield from one_step(
    "nash_mtl",
    lambda tasks: aggregation.NashMTL(tasks, max_norm=0.0, optim_niter=1000),
    draws.ALL,
    left=definitions.fairgrad,
    accept=1e-4,
    tolerance=lambda left: draws.digits(max(1e-6, 10 * left), 1),
  )
  for alpha in (2.0, 1.0, 0.5):
    yield from one_step(
      "fairgrad",
      lambda tasks, alpha=alpha: aggregation.FairGrad(alpha),
      draws.ALL,
      {"alpha": alpha},
      left=partial(definitions.fairgrad, alpha=alpha),
      tolerance=lambda left: draws.digits(max(1e-6, 10 * left), 1),
    )


def formulas():
  """Methods that are computed without a solver."""
  yield from one_step(
    "aligned_mtl", lambda tasks: aggregation.AlignedMTL(scale_mode="min"), draws.ALL
  )
  yield from one_step("config", lambda tasks: aggregation.ConFIG(), draws.ALL)
  # The order of the tasks is random, which matters from three on.
  yield from one_step("pcgrad", lambda tasks: aggregation.PCGrad(), draws.PAIRS)
  for selected in (1, 2):
    yield from one_step(
      "krum",
      lambda tasks, selected=selected: aggregation.Krum(1, selected),
      draws.MANY,
      {"num_byzantine": 1, "num_selected": selected},
      comparable=partial(definitions.krum_is_clear, byzantine=1, selected=selected),
    )
  yield from one_step(
    "trimmed_mean",
    lambda tasks: aggregation.TrimmedMean(trim_number=1),
    [*draws.ALL[1:], "outlier"],
    {"trim": 1},
  )
  # Random but for columns of one sign, and for a leak of 1.
  yield from one_step(
    "graddrop",
    lambda tasks: aggregation.GradDrop(),
    ["two tasks, one sign", "one sign"],
  )
  yield from one_step(
    "graddrop",
    lambda tasks: aggregation.GradDrop(leak=torch.ones(tasks)),
    draws.FULL_RANK,
    {"leak": 1.0},
  )


def preferring():
  """Methods that take preferences, and the ways in which Aligned-MTL scales."""
  exact = QuadprogProjector(norm_eps=0.0, reg_eps=1e-12)
  for kind in draws.CONSISTENT:
    preferences = np.arange(1.0, len(draws.gradients(kind)) + 1)
    kwargs = {"preferences": list(preferences)}
    vector = torch.tensor(preferences)
    for method, make in (
      ("upgrad", aggregation.UPGrad),
      ("dualproj", aggregation.DualProj),
    ):
      yield from one_step(
        method,
        lambda tasks, make=make, vector=vector: make(vector, projector=exact),
        [kind],
        kwargs,
        left=partial(getattr(definitions, method), preferences=preferences),
        unique=False,
      )
    yield from one_step(
      "config", lambda tasks, vector=vector: aggregation.ConFIG(vector), [kind], kwargs
    )
    for mode in ("min", "median", "rmse"):
      yield from one_step(
        "aligned_mtl",
        lambda tasks, mode=mode, vector=vector: aggregation.AlignedMTL(vector, mode),
        [kind],
        kwargs | {"scale_mode": mode},
      )


def follow(method, source, kind, kwargs, weigh, length, keys=()):
  """A case of several steps.

  Args:
    method: The library's name of it.
    source: TorchJD's object.
    kind: The kind of gradients.
    kwargs: The library's arguments.
    weigh: From a step to its weights.
    length: The number of steps.
    keys: What the method uses besides the gradients.
  """
  steps = []
  for step in draws.sequence(kind, length):
    weights = weigh(step)
    used = {key: step[key] for key in ("jacobian", *keys)}
    result = {"update": weights @ step["jacobian"], "weights": weights}
    steps.append({"losses": None} | used | result)
  source = f"torchjd {type(source).__name__}"
  case = {"method": method, "source": source, "inputs": kind, "kwargs": kwargs}
  return case | {"steps": steps}


def gradvac():
  for kind in draws.PAIRS:
    weighting = aggregation.GradVacWeighting(beta=0.5, eps=0.0)

    def weigh(step, weighting=weighting):
      jacobian = torch.tensor(step["jacobian"])
      return weighting(jacobian @ jacobian.T).numpy()

    yield follow("gradvac", weighting, kind, {"beta": 0.5}, weigh, 5)


def two_batches(method, make, kwargs, kinds):
  """Methods of ``J₁ J₂ᵀ``, where rounding does not decide the result.

  Many long steps on the simplex can amplify it without bound, so each sequence is
  repeated with a disturbance of 1e-6.
  """

  def weigh(weighting, rng, noise, step):
    products = step["jacobian"] @ step["independent"].T
    products = products * (1 + noise * rng.normal(size=products.shape))
    return weighting(torch.tensor(products)).numpy()

  for kind in kinds:
    weighting, rng = make(), np.random.default_rng(0)
    case, disturbed = (
      follow(
        method, weighting, kind, kwargs, partial(weigh, make(), rng, noise), 5, keys
      )
      for noise, keys in ((0.0, ["independent"]), (1e-6, []))
    )
    change = max(
      np.abs(one["weights"] - other["weights"]).max()
      for one, other in zip(case["steps"], disturbed["steps"], strict=True)
    )
    if change > 1e-4:
      case["residual"] = draws.digits(change, 2)
      del case["steps"]
    yield case


def with_two_batches():
  modo = {"gamma": 0.1, "rho": 0.1}
  make = partial(aggregation.MoDoWeighting, **modo)
  yield from two_batches("modo", make, modo, draws.FULL_RANK)
  for rate, kinds in (10.0, draws.ALL), (0.5, ["ordinary", "conflicting"]):
    make = partial(
      aggregation.SDMGradWeighting, lambda_=0.3, lr=rate, momentum=0.5, n_iter=20
    )
    kwargs = {"direction": 0.3, "learning_rate": rate, "momentum": 0.5, "num_steps": 20}
    yield from two_batches("sdmgrad", make, kwargs, kinds)


def scalarized(
  method, scalarizer, kind, kwargs, length, after=lambda step: None, keys=()
):
  """A sequence weighted by the slopes of TorchJD's function of the losses.

  After every step `after` is called, when the parameters have their slopes.
  """

  def weigh(step):
    scalarizer.zero_grad()
    losses = torch.tensor(step["losses"], requires_grad=True)
    scalarizer(losses).backward()
    after(step)
    return losses.grad.numpy()

  return follow(method, scalarizer, kind, kwargs, weigh, length, ["losses", *keys])


def of_losses(kind):
  tasks = len(draws.gradients(kind))
  yield scalarized("gls", scalarization.GeometricMean(), kind, {}, 1)
  for mu in (1.0, 0.1):
    yield scalarized("stch", scalarization.STCH(mu=mu), kind, {"mu": mu}, 1)

  dwa, counter = scalarization.DWA(temperature=2.0), itertools.count(1)

  def end_epoch(step):
    if next(counter) % 2 == 0:
      dwa.step()

  kwargs = {"temperature": 2.0, "steps_per_epoch": 2}
  yield scalarized("dwa", dwa, kind, kwargs, 8, end_epoch)

  for method, make in (
    ("uncertainty", scalarization.UW),
    ("imtl_l", scalarization.IMTLL),
  ):
    for name, rule, rate in (
      ("sgd", torch.optim.SGD, 0.1),
      ("adam", torch.optim.Adam, 0.025),
    ):
      scalarizer = make(tasks)
      optimizer = rule(scalarizer.parameters(), lr=rate)
      kwargs = {"optimizer": [name, rate]}
      yield scalarized(
        method, scalarizer, kind, kwargs, 5, lambda step, by=optimizer: by.step()
      )

  famo = scalarization.FAMO(tasks, lr=0.025, weight_decay=0.001)

  def update(step):
    famo.update(torch.tensor(step["losses_after_step"]))

  kwargs = {"learning_rate": 0.025, "weight_decay": 0.001}
  yield scalarized("famo", famo, kind, kwargs, 6, update, ["losses_after_step"])


class Point(torch.nn.Module):
  """Parameters that stay at zero."""

  def __init__(self, size):
    super().__init__()
    self.theta = torch.nn.Parameter(torch.zeros(size))


def libmtl_steps(name, kwargs, kind):
  """What LibMTL does with losses that are linear in the parameters, at zero."""
  methods = importlib.import_module("LibMTL.weighting")
  architecture = importlib.import_module("LibMTL.architecture.abstract_arch")

  class Model(architecture.AbsArchitecture, getattr(methods, name)):
    pass

  tasks, size = draws.gradients(kind).shape
  names = [str(task) for task in range(tasks)]
  model = Model(names, None, None, rep_grad=False, multi_input=False, device="cpu")
  model.encoder = Point(size)
  model.init_param()
  for step in draws.sequence(kind, 5):
    model.zero_grad_share_params()
    jacobian, losses = torch.tensor(step["jacobian"]), torch.tensor(step["losses"])
    weights = model.backward(losses + jacobian @ model.encoder.theta, **kwargs)
    update = model.encoder.theta.grad.numpy().copy()
    yield step["jacobian"], step["losses"], update, weights


def of_libmtl(kind):
  excess = {"method": "excess_mtl", "source": "LibMTL ExcessMTL", "inputs": kind}
  excess["kwargs"] = {"step_size": 0.01}
  excess["steps"] = [
    # LibMTL's weights have the sum K, the paper's and the library's 1.
    {"jacobian": jacobian, "losses": None}
    | {"update": update / len(weights), "weights": weights / len(weights)}
    for jacobian, _, update, weights in libmtl_steps(
      "ExcessMTL", {"robust_step_size": 0.01}, kind
    )
  ]
  yield excess
  db_mtl = {"method": "db_mtl", "source": "LibMTL DB_MTL", "inputs": kind}
  db_mtl["kwargs"] = {"beta": 0.9, "beta_sigma": 0.5}
  db_mtl["tolerance"] = 1e-4  # LibMTL adds 1e-8 to the losses and the norms.
  db_mtl["steps"] = [
    # LibMTL reports weights of 1, which it does not use.
    {"jacobian": jacobian, "losses": losses, "update": update, "weights": None}
    for jacobian, losses, update, _ in libmtl_steps(
      "DB_MTL", {"DB_beta": 0.9, "DB_beta_sigma": 0.5}, kind
    )
  ]
  yield db_mtl


def import_libmtl(path):
  """Makes LibMTL's parts importable without its trainer, which needs far more."""
  package = types.ModuleType("LibMTL")
  package.__path__ = [str(path / "LibMTL")]
  sys.modules["LibMTL"] = package
  command = ["git", "-C", str(path), "rev-parse", "HEAD"]
  return subprocess.check_output(command, text=True).strip()


def to_json(items):
  """A list with one item a line, for readable differences."""
  convert = partial(json.dumps, separators=(",", ":"), default=draws.digits)
  return "[\n" + ",\n".join(map(convert, items)) + "\n]"


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--libmtl", type=pathlib.Path, required=True, help="a checkout")
  arguments = parser.parse_args()
  versions = {"python": platform.python_version()}
  versions |= {name: importlib.metadata.version(name) for name in PACKAGES}
  versions["LibMTL"] = import_libmtl(arguments.libmtl)
  torch.set_default_dtype(torch.float64)
  warnings.filterwarnings("ignore", message="You are solving a parameterized problem")

  cases = [*weightings(), *formulas(), *preferring(), *gradvac(), *with_two_batches()]
  for of_kind in (of_losses, of_libmtl):
    cases += itertools.chain.from_iterable(map(of_kind, draws.FULL_RANK))
  cases.sort(key=lambda case: case["method"])
  text = ",\n".join(
    [
      f'"versions": {json.dumps(versions)}',
      f'"dropped": {to_json(case for case in cases if "steps" not in case)}',
      f'"cases": {to_json(case for case in cases if "steps" in case)}',
    ]
  )
  output = pathlib.Path(__file__).with_name("golden.json")
  output.write_text(f"{{\n{text}\n}}\n")


if __name__ == "__main__":
  main()
